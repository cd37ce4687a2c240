"""Which files of two folders belong together, by their order."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_busref.data.pairing import Pair, find_pairs


def make(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_by_order_numbers_count_by_their_value(tmp_path: Path) -> None:
    fixed = make(tmp_path / "a", ["v10.png", "v9.png", "v100.tif", "notes.txt"])
    moving = make(tmp_path / "b", ["ir_3.png", "ir_21.png", "ir_4.png"])
    pairs, alone = find_pairs(fixed, moving, "order")
    assert [(pair.name, pair.moving.name) for pair in pairs] == [
        ("v9", "ir_3.png"),
        ("v10", "ir_4.png"),
        ("v100", "ir_21.png"),
    ]
    assert alone == []


def test_by_order_the_numbers_of_files_must_agree(tmp_path: Path) -> None:
    folders = make(tmp_path / "a", ["1.png"]), make(tmp_path / "b", ["1.png", "2.png"])
    with pytest.raises(ValueError, match="one and other: 1 and 2 images cannot be paired"):
        find_pairs(*folders, "order", ("one", "other"))
    assert [pair.name for pair in find_pairs(*folders)[0]] == ["1"]
    with pytest.raises(ValueError, match="match: got 'size', need one of name, order"):
        find_pairs(*folders, "size")  # type: ignore[arg-type]


def names(pairs: list[Pair]) -> list[tuple[str, str, str]]:
    return [(pair.name, pair.fixed.name, pair.moving.name) for pair in pairs]


@pytest.mark.parametrize(
    ("fixed", "moving", "name"),
    [
        ("DJI_0001_V.JPG", "DJI_0001_T.JPG", "DJI_0001_T"),
        ("20240501_vis.png", "20240501_ir.tif", "20240501_ir"),
        ("RGB_12.png", "T_12.png", "T_12"),
        ("frame12RGB.png", "frame12T.png", "frame12T"),
        ("visible-a b.png", "thermal-a b.png", "thermal-a b"),
        ("0001.png", "0001-lwir.png", "0001-lwir"),
        ("p7_opt.tif", "p7_SAR.tif", "p7_SAR"),
        ("0001_W.jpg", "0001.png", "0001"),
        ("scan_3_LWIR.png", "scan_3_rgb.png", "scan_3_rgb"),  # FIXED may be the infrared image
        ("p7_MRI.png", "p7_CT.png", "p7_CT"),
        ("IMG_1.JPG", "img_1.png", "img_1"),
        ("Stra\u00dfe.png", "STRASSE.png", "STRASSE"),
        ("e\u0301te\u0301.png", "\u00e9t\u00e9.png", "\u00e9t\u00e9"),
        ("Fl\u00e4che_V.png", "Fla\u0308che_T.png", "Fla\u0308che_T"),
        ("DJI_0001_V.JPG", "DJI_0001_T_warped.png", "DJI_0001_T"),
    ],
)
def test_names_pair_by_words_case_and_accents(
    tmp_path: Path, fixed: str, moving: str, name: str
) -> None:
    folders = make(tmp_path / "a", [fixed, "other.png"]), make(tmp_path / "b", [moving])
    pairs, alone = find_pairs(*folders)
    assert names(pairs) == [(name, fixed, moving)]
    assert [path.name for path in alone] == ["other.png"]


def test_equal_stems_go_before_words_and_case(tmp_path: Path) -> None:
    fixed = make(tmp_path / "a", ["a.png", "A.png", "b.png", "c_V.png"])
    moving = make(tmp_path / "b", ["a.png", "b.png", "b_T.png", "c_T.png"])
    pairs, alone = find_pairs(fixed, moving)
    assert names(pairs) == [
        ("a", "a.png", "a.png"),
        ("b", "b.png", "b.png"),
        ("c_T", "c_V.png", "c_T.png"),
    ]
    assert [path.name for path in alone] == ["A.png", "b_T.png"]


def test_a_word_that_all_names_of_a_folder_share_is_left_out(tmp_path: Path) -> None:
    fixed = make(tmp_path / "a", ["s1_DAPI_x.png", "s2_DAPI_x.png", "s3_DAPI_x.png"])
    moving = make(tmp_path / "b", ["s2_GFP_x.png", "s1_GFP_x.png"])
    pairs, alone = find_pairs(fixed, moving)
    assert [pair.moving.name for pair in pairs] == ["s1_GFP_x.png", "s2_GFP_x.png"]
    assert [path.name for path in alone] == ["s3_DAPI_x.png"]


def test_names_without_anything_in_common_are_not_guessed(tmp_path: Path) -> None:
    folders = make(tmp_path / "a", ["x_cat.png"]), make(tmp_path / "b", ["x_dog.png"])
    with pytest.raises(ValueError, match=r"no two files of the same stem.*order.*pattern"):
        find_pairs(*folders)


@pytest.mark.parametrize(
    ("fixed", "moving", "both"),
    [
        (["a.png"], ["a_T.png", "a_ir.png"], r"a_T.png and a_ir.png.*a.png"),
        (["a_V.png", "a_Z.png"], ["a_T.png"], r"a_V.png and a_Z.png.*a_T.png"),
        (["A.png"], ["a.png", "a_warped.png"], r"a.png and a_warped.png.*A.png"),
        (["IMG.png"], ["img.png", "Img.png"], r"Img.png and img.png.*IMG.png"),
    ],
)
def test_two_partners_are_an_error(
    tmp_path: Path, fixed: list[str], moving: list[str], both: str
) -> None:
    with pytest.raises(ValueError, match=both):
        find_pairs(make(tmp_path / "a", fixed), make(tmp_path / "b", moving))


def test_side_car_files_are_no_images(tmp_path: Path) -> None:
    other = ["._a.png", ".a.png", "Thumbs.db", ".DS_Store", "a.xml", "a.png.aux.xml", "a.pgw"]
    folders = make(tmp_path / "a", ["a.png", *other]), make(tmp_path / "b", ["a.png", *other])
    (tmp_path / "b" / "more.png").mkdir()
    pairs, alone = find_pairs(*folders)
    assert names(pairs) == [("a", "a.png", "a.png")]
    assert alone == []


def test_tables_are_images_only_among_themselves(tmp_path: Path) -> None:
    tables = make(tmp_path / "a", ["1.csv", "2.CSV"])
    pictures = make(tmp_path / "b", ["1.png", "2.png", "summary.csv", "landmarks.csv"])
    pairs, alone = find_pairs(tables, pictures)
    assert names(pairs) == [("1", "1.csv", "1.png"), ("2", "2.CSV", "2.png")]
    assert alone == []


def test_one_folder_pairs_by_words_only(tmp_path: Path) -> None:
    both = make(tmp_path / "a", ["1_V.JPG", "1_T.JPG", "2.png", "2_ir.png", "3_V.JPG", "4.png"])
    pairs, alone = find_pairs(both, tmp_path / "a" / ".." / "a")
    assert names(pairs) == [("1_T", "1_V.JPG", "1_T.JPG"), ("2_ir", "2.png", "2_ir.png")]
    assert [path.name for path in alone] == ["3_V.JPG", "4.png"]
    pairs, _ = find_pairs(both, both, "*_V,*_T")
    assert names(pairs) == [("1_T", "1_V.JPG", "1_T.JPG")]


@pytest.mark.parametrize("match", ["name", "order", r"(\d)", "*,*"])
def test_one_folder_without_words_is_an_error(tmp_path: Path, match: str) -> None:
    both = make(tmp_path / "a", ["1.png", "2.png"])
    link = tmp_path / "link"
    link.symlink_to(both, target_is_directory=True)
    with pytest.raises(ValueError, match=r"same folder|with itself"):
        find_pairs(both, link, match)


def test_two_patterns_select_the_files(tmp_path: Path) -> None:
    fixed = make(tmp_path / "a", ["a1_left.png", "a2_left.png", "a1_right.png"])
    moving = make(tmp_path / "b", ["IR-A1.png", "IR-a2_warped.png", "note.png"])
    pairs, alone = find_pairs(fixed, moving, "*_left.png,ir-*")
    assert names(pairs) == [
        ("IR-A1", "a1_left.png", "IR-A1.png"),
        ("IR-a2", "a2_left.png", "IR-a2_warped.png"),
    ]
    assert [path.name for path in alone] == ["a1_right.png", "note.png"]
    with pytest.raises(ValueError, match="both belong to"):
        find_pairs(fixed, make(tmp_path / "c", ["a1x.png", "A1x.png"]), "*_left,*x")


def test_a_regular_expression_pairs_by_its_groups(tmp_path: Path) -> None:
    fixed = make(
        tmp_path / "a", ["DJI_20240501120000_0007_V.png", "DJI_20240501120009_0012_V.png"]
    )
    moving = make(tmp_path / "b", ["IR_7.png", "IR_12.png", "IR.png"])
    pairs, alone = find_pairs(fixed, moving, r"_(\d{1,4})(?:_V)?$")
    assert [pair.moving.name for pair in pairs] == ["IR_7.png", "IR_12.png"]
    assert [path.name for path in alone] == ["IR.png"]
    with pytest.raises(ValueError, match="no two files pair"):
        find_pairs(fixed, moving, "(x)")
    with pytest.raises(ValueError, match="no regular expression"):
        find_pairs(fixed, moving, "(")


def test_results_of_earlier_runs_pair_by_order(tmp_path: Path) -> None:
    fixed = make(tmp_path / "a", ["v1.png", "v2.png"])
    results = ["a_warped.png", "a_mask.png", "b_warped.png", "b_mask.png", "b_fused.png"]
    pairs, _ = find_pairs(fixed, make(tmp_path / "b", results), "order")
    assert names(pairs) == [("v1", "v1.png", "a_warped.png"), ("v2", "v2.png", "b_warped.png")]
