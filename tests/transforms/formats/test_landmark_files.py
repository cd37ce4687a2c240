"""Landmarks of BigWarp and QGIS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_busref import ImageGrid, read_transform
from napari_busref.transforms.formats.landmark_files import (
    STYLES,
    read_landmarks,
    write_landmarks,
)

FIXED, MOVING = ImageGrid((60, 80)), ImageGrid((50, 70))
# (row, col) of both images, in pixels
HERE = np.array([[5.0, 6.0], [50.0, 10.0], [8.0, 70.0], [45.0, 66.0], [30.0, 35.0]])
THERE = HERE * 0.8 + [[1, 2], [1.5, 2], [1, 2.5], [0, 0], [3, 1]]


def bigwarp(fixed: np.ndarray, moving: np.ndarray) -> str:
    rows = [
        f'"Pt-{number}","true","{q[1]}","{q[0]}","{p[1]}","{p[0]}"'
        for number, (p, q) in enumerate(zip(fixed, moving, strict=True))
    ]
    return "\n".join(rows) + "\n"


def test_bigwarp_interpolates_its_landmarks(tmp_path: Path) -> None:
    path = tmp_path / "landmarks.csv"
    off = '"Pt-8","false","1","1","60","50"\n"Pt-9","true","Infinity","Infinity","3","4"\n\n'
    path.write_text(bigwarp(HERE, THERE) + off)
    found = read_transform(path, fixed=FIXED, moving=MOVING)
    assert (found.transform.fixed_shape, found.transform.moving_shape) == ((60, 80), (50, 70))
    np.testing.assert_allclose(found.transform.points(HERE), THERE, atol=1e-3)
    fixed, moving = read_landmarks(path, FIXED, MOVING)
    np.testing.assert_allclose(fixed, HERE)
    np.testing.assert_allclose(moving, THERE)


def test_bigwarp_is_in_the_units_of_the_images(tmp_path: Path) -> None:
    fixed = ImageGrid((60, 80), spacing=(0.5, 0.25), origin=(10, -3), unit="µm")
    moving = ImageGrid((50, 70), spacing=(2, 3), unit="µm")
    path = tmp_path / "landmarks.csv"
    header = "name,active,mx,my,fx,fy\n"
    path.write_text(header + bigwarp(HERE * (0.5, 0.25) + (10, -3), THERE * (2, 3)))
    found = read_transform(path, fixed=fixed, moving=moving)
    np.testing.assert_allclose(found.transform.points(HERE), THERE, atol=1e-3)


@pytest.mark.parametrize("names", ["sourceX,sourceY", "pixelX,pixelY"])
def test_qgis_fits_an_affine_to_enabled_points(tmp_path: Path, names: str) -> None:
    # UTM: y goes up
    fixed = ImageGrid(
        (60, 80), (2, 2), (4.6e6, 5e5), direction=((-1.0, 0.0), (0.0, 1.0)), unit="meter"
    )
    there = HERE @ [[0.9, 0.1], [-0.1, 0.8]] + [3, 4]
    lines = ["#CRS: PROJCRS", f"mapX,mapY,{names},enable,dX,dY,residual"]
    for (row, col), (r, c) in zip(HERE, there, strict=True):
        lines.append(f"{5e5 + 2 * col},{4.6e6 - 2 * row},{c + 0.5},{-r - 0.5},1,0,0,0")
    lines.append("500000,4600000,50,-50,0,0,0,0")
    path = tmp_path / "map.points"
    path.write_text("\n".join(lines) + "\n")
    found = read_transform(path, fixed=fixed, moving=MOVING)
    assert found.transform.displacement is None
    np.testing.assert_allclose(found.transform.points(HERE), there, atol=1e-6)
    with pytest.raises(ValueError, match="need fixed as an ImageGrid with the origin"):
        read_transform(path, fixed=FIXED, moving=MOVING)


def test_qgis_between_two_plain_images(tmp_path: Path) -> None:
    lines = ["mapX,mapY,sourceX,sourceY,enable"]
    for (row, col), (r, c) in zip(HERE[:3], THERE[:3], strict=True):
        lines.append(f"{col + 0.5},{-row - 0.5},{c + 0.5},{-r - 0.5},1")
    path = tmp_path / "plain.points"
    path.write_text("\n".join(lines))
    found = read_transform(path, fixed=FIXED, moving=MOVING).transform
    np.testing.assert_allclose(found.points(HERE[:3]), THERE[:3], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", bigwarp(HERE[:2], THERE[:2]), "needs at least 3 pairs"),
        ("a.csv", bigwarp(HERE[:1], THERE[:1]) + '"Pt","true","1"\n', "line 2 is no landmark"),
        ("a.csv", bigwarp(HERE[:1], THERE[:1]).replace("70.0", "x") + '"P","true",1,2,3,y\n',
         "is no number"),
        ("a.csv", '"Pt","true",1,2,0,4,5,0\n"Pt","true",1,2,3,4,5,0\n', "three-dimensional"),
        ("a.csv", bigwarp(HERE[:3], THERE[:3]).replace(",", ";").replace("70.0", "7,0,0"),
         "landmark 3 is no number"),
        ("a.points", "x,y\n1,2\n", "no column mapX"),
        ("a.points", "mapX,mapY,sourceX,sourceY\n1,2,3\n", "is no number"),
        ("a.points", "", "no column mapX"),
    ],
)  # fmt: skip
def test_damaged_landmarks_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_transform(tmp_path / name, fixed=FIXED, moving=MOVING)
    assert str(caught.value).startswith("path: ")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("placed", [False, True])
def test_every_kind_of_landmark_file_comes_back(tmp_path: Path, style: str, placed: bool) -> None:
    fixed, moving = FIXED, MOVING
    if placed:
        fixed = ImageGrid((60, 80), (2, 3), (40, 7), unit="µm")
        moving = ImageGrid((50, 70), (0.5, 0.25), (-3, 9), unit="µm")
    path = tmp_path / ("marks.points" if style == "qgis" else "marks.csv")
    assert write_landmarks(path, HERE, THERE, fixed, moving, style) == path
    found = read_landmarks(path, fixed, moving)
    np.testing.assert_allclose(found, (HERE, THERE), atol=1e-9)
    transform = read_transform(path, fixed=fixed, moving=moving).transform
    np.testing.assert_allclose(transform.points(HERE), THERE, atol=2.0)


def test_the_extension_chooses_the_kind_of_landmark_file(tmp_path: Path) -> None:
    path = write_landmarks(tmp_path / "a.points", HERE, THERE, FIXED, MOVING)
    assert path.read_text().startswith("mapX,mapY,sourceX,sourceY,enable")
    path = write_landmarks(tmp_path / "a.csv", HERE, THERE, FIXED, MOVING)
    first, second = path.read_text().splitlines()[:2]
    assert first == "number,fixed_row,fixed_col,moving_row,moving_col"
    assert second == "1,5.0,6.0,5.0,6.8"
    with pytest.raises(ValueError, match="style: got 'word', need one of pixels, bigwarp, qgis"):
        write_landmarks(path, HERE, THERE, FIXED, MOVING, "word")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"points: got shapes \(5, 2\) and \(4, 2\)"):
        write_landmarks(path, HERE, THERE[:4], FIXED, MOVING)
    path.write_text("number,fixed_row,fixed_col,moving_row,moving_col\n1,2,3,nan,4\n")
    with pytest.raises(ValueError, match="a landmark is not finite"):
        read_landmarks(path, FIXED, MOVING)
    path.write_text("number,fixed_row,fixed_col,moving_row,moving_col\n1,2,3\n")
    with pytest.raises(ValueError, match="fewer than four numbers"):
        read_landmarks(path, FIXED, MOVING)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("mark", [";", "\t"])
def test_landmarks_that_a_spreadsheet_has_saved(tmp_path: Path, style: str, mark: str) -> None:
    """With semicolons or tabs, and decimal commas."""
    path = tmp_path / ("marks.points" if style == "qgis" else "marks.csv")
    write_landmarks(path, HERE, THERE, FIXED, MOVING, style)
    path.write_text(path.read_text().replace(",", mark).replace(".", ","))
    np.testing.assert_allclose(read_landmarks(path, FIXED, MOVING), (HERE, THERE), atol=1e-9)
    assert read_transform(path, fixed=FIXED, moving=MOVING).transform.fixed_shape == FIXED.shape
    path.write_text(f"sep={mark}\n{path.read_text()}", encoding="utf-16")
    np.testing.assert_allclose(read_landmarks(path, FIXED, MOVING), (HERE, THERE), atol=1e-9)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_rows_without_cells_hold_no_landmark(tmp_path: Path, style: str, mark: str) -> None:
    path = tmp_path / ("marks.points" if style == "qgis" else "marks.csv")
    write_landmarks(path, HERE, THERE, FIXED, MOVING, style)
    path.write_text(path.read_text().replace(",", mark) + 5 * mark + "\n")
    np.testing.assert_allclose(read_landmarks(path, FIXED, MOVING), (HERE, THERE), atol=1e-9)


@pytest.mark.parametrize("mark", [";", "\t"])
def test_marks_in_names_separate_no_columns(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "marks.csv"
    path.write_text(f'"roof{mark} left","true",2,1,4,3\n')
    found = read_landmarks(path, FIXED, MOVING)
    np.testing.assert_array_equal(found, ([[3, 4]], [[1, 2]]))
    path.write_text(f"fixed_row,fixed_col,moving_row,moving_col,note{mark} remark\n3,4,1,2,x\n")
    np.testing.assert_array_equal(read_landmarks(path, FIXED, MOVING), found)


@pytest.mark.parametrize("note", ["", ",note"])
def test_columns_of_landmarks_are_found_by_name(tmp_path: Path, note: str) -> None:
    path = tmp_path / "marks.csv"
    heads = f"moving_row,moving_col,Fixed_row, fixed_col{note}"
    path.write_text(f"{heads}\n1,2,3,4{note}\n5,6,7,8{note}\n")
    found = read_landmarks(path, FIXED, MOVING)
    np.testing.assert_array_equal(found, ([[3, 4], [7, 8]], [[1, 2], [5, 6]]))


def test_bigwarp_landmarks_of_one_plane(tmp_path: Path) -> None:
    """Volumes have a third coordinate, which of one plane is the same everywhere."""
    path = tmp_path / "marks.csv"
    path.write_text('"Pt-0","true",1,2,5,3,4,9\n"Pt-1","true",5,6,5,7,8,9\n')
    found = read_landmarks(path, FIXED, MOVING)
    np.testing.assert_array_equal(found, ([[4, 3], [8, 7]], [[2, 1], [6, 5]]))


@pytest.mark.parametrize("off", ["0", "0.0", "false", " False"])
def test_points_of_qgis_that_are_switched_off(tmp_path: Path, off: str) -> None:
    path = tmp_path / "a.points"
    lines = ["mapX,mapY,sourceX,sourceY,enable", f"9,-9,9,-9,{off}", "3.5,-4.5,1.5,-2.5,1"]
    path.write_text("\n".join(lines))
    found = read_landmarks(path, FIXED, MOVING)
    np.testing.assert_array_equal(found, ([[4, 3]], [[2, 1]]))
