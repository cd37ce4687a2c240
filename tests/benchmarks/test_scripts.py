from __future__ import annotations

import csv
import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from imageio.v3 import imread
from PIL import Image
from scipy import ndimage

from napari_busref.data.samples import thermal_scene
from napari_busref.metrics.registration import Scorer
from napari_busref.models.features.likelihood import Likelihood
from napari_busref.models.features.matcher import Matcher
from napari_busref.registration.features import MatchingNetworks
from napari_busref.transforms.transform import Transform

SHAPE = (64, 96)


@pytest.fixture(scope="module")
def folder():
    """Put the folder of benchmarks on the path, as for its scripts."""
    path = Path(__file__).resolve().parents[2] / "benchmarks"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path))
        yield path


@pytest.fixture(scope="module")
def handheld(folder) -> ModuleType:
    return importlib.import_module("handheld")


@pytest.fixture
def modalities(folder, monkeypatch) -> ModuleType:
    # do not change the number of threads of other tests
    module = importlib.import_module("modalities")
    monkeypatch.setattr(module, "set_threads", lambda count: None)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two pairs of cameras with different sizes, and one slice of a head."""
    root = tmp_path_factory.mktemp("data")
    pictures = {}
    for seed, name in enumerate(("a.jpg", "b.jpg")):
        sample = thermal_scene(seed, SHAPE)
        pictures[f"metu-vistir/visible/{name}"] = sample.fixed
        pictures[f"metu-vistir/infrared/{name}"] = sample.aligned[:, 10:-10]
    rows, cols = np.indices((64, 64)) - 31.5
    head = np.uint8(200 * (np.hypot(rows, cols) < 20))
    colours = np.stack([head, head // 2, head // 4], -1)
    pictures["medical/mri-pet/mri/1.png"] = colours
    pictures["medical/mri-pet/source/1.png"] = colours
    for name, picture in pictures.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / name)
    return root


def read(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def smooth(shape: tuple[int, int]) -> np.ndarray:
    """A smooth picture, which can be reduced without loss."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).random(shape), 5)
    low, high = noise.min(), noise.max()
    return np.uint8(255 * (0.2 + 0.8 * (noise - low) / (high - low)))


def counts(picture: np.ndarray) -> dict[str, int]:
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "yellow": (255, 255, 0)}
    return {name: int((picture == value).all(-1).sum()) for name, value in colours.items()}


def test_edges_that_coincide_are_yellow(handheld):
    square = np.full(SHAPE, 0.2, np.float32)
    square[20:44, 30:66] = 0.7
    square[21:43, 31:65] = 0.8  # steepest at one pixel, not between two
    everywhere = np.ones(SHAPE, bool)
    same = counts(handheld.draw(square, 1 - square, everywhere, SHAPE[1]))
    assert same["yellow"] > 90 and same["red"] == same["green"] == 0
    moved = counts(handheld.draw(square, np.roll(square, (6, 6), (0, 1)), everywhere, SHAPE[1]))
    assert moved["red"] > 80 and moved["green"] > 80 and moved["yellow"] < 10


def test_nothing_is_drawn_of_what_was_not_registered(handheld):
    visible = np.full(SHAPE, 0.5, np.float32)
    thermal = smooth(SHAPE).astype(np.float32) / 255
    mask = np.zeros(SHAPE, bool)
    picture = handheld.draw(visible, thermal, mask, SHAPE[1])
    assert (picture[:, SHAPE[1] :] == 128).all() and counts(picture)["red"] == 0
    mask[:, 48:] = True
    picture = handheld.draw(visible, thermal, mask, SHAPE[1])
    left, right = picture[:, : SHAPE[1]], picture[:, SHAPE[1] :]
    assert (right[:, :48] == 128).all() and (right[:, 48:] != 128).any()
    red = (left == (255, 0, 0)).all(-1)
    assert red.any() and not red[:, :50].any()  # the border of the mask is no edge


def test_real_pairs_are_registered_drawn_and_listed(handheld, data, tmp_path):
    options = {"search": "none", "refine": "none", "transform": "affine"}
    handheld.main(tmp_path, model="identity", data_root=data, **options)
    rows = read(tmp_path / "table.csv")
    assert [row["pair"] for row in rows] == ["a", "b"]
    assert all(float(row["scale"]) == 1 and float(row["shift_px"]) < 0.1 for row in rows)
    assert imread(tmp_path / "a.jpg").shape == (SHAPE[0], 2 * SHAPE[1], 3)
    assert imread(tmp_path / "all.jpg").shape[1] == 2 * 2 * handheld.SHEET_WIDTH


def test_handheld_says_what_it_cannot_use(handheld, data, tmp_path):
    with pytest.raises(typer.BadParameter, match="visible holds no pictures"):
        handheld.main(tmp_path, model="identity", data_root=tmp_path)
    with pytest.raises(typer.BadParameter, match="search: got 'far'"):
        handheld.main(tmp_path, model="identity", search="far", data_root=data)


@pytest.mark.parametrize("pixels", [2.0, 0.5])
def test_pixels_of_another_size_are_scored_where_they_are(modalities, pixels):
    image = smooth((81, 120))  # odd, so that half of it is not exact
    case = modalities.Case("", lambda root: iter(()), pixels=pixels)
    pair, moving = modalities.draw(case, ("", image, image), 1)
    assert moving.shape == (round(81 * pixels), 120 * pixels)
    truth = pair.warp.true_source()
    factor = np.array(moving.shape)[:, None, None] / np.array([81, 120])[:, None, None]
    resized = (truth + 0.5) * factor - 0.5
    inside = ndimage.binary_erosion(pair.mask, iterations=8)  # the warp leaves a black border

    def difference(at):
        return np.abs(ndimage.map_coordinates(moving, at, order=1) - pair.aligned)[inside].mean()

    # the content differs by less there than half a pixel beside it
    assert difference(resized) < 0.01 and difference(resized) < 0.5 * difference(resized + 0.5)
    source = modalities.as_warped(resized, moving.shape, pair.aligned.shape)
    assert Scorer(pair)(source)["epe"] < 0.02


def test_second_image_is_altered_before_it_is_warped(modalities):
    aligned = ("", smooth(SHAPE), smooth(SHAPE))
    plain = modalities.draw(modalities.CASES["itself"], aligned, 2)[1]
    inverted = modalities.draw(modalities.CASES["inverted"], aligned, 2)[1]
    inside = ndimage.binary_erosion((plain > 0) & (inverted > 0), iterations=2)
    np.testing.assert_allclose(inverted[inside], 1 - plain[inside], atol=1e-6)
    assert (inverted[plain == 0] == 0).all()  # the empty border of the warp is not inverted
    gamma = modalities.draw(modalities.CASES["gamma-0.4"], aligned, 2)[0].aligned
    np.testing.assert_allclose(gamma, (aligned[2] / 255) ** 0.4)
    both = modalities.draw(modalities.CASES["everything"], aligned, 2)[0].aligned
    expected = ndimage.gaussian_filter((1 - aligned[2] / 255) ** 0.4, 2)
    np.testing.assert_allclose(both, expected)


@pytest.mark.parametrize(
    "name", ["noise", "motion", "hot-object", "overlay", "bars", "rainbow", "round"]
)
def test_degraded_pictures(modalities, name):
    aligned = ("", smooth((120, 160)), smooth((120, 160)))
    plain, whole = modalities.draw(modalities.CASES["itself"], aligned, 2)
    pair, moving = modalities.draw(modalities.CASES[name], aligned, 2)
    grey = moving if moving.ndim == 2 else moving.mean(-1)
    assert grey.shape == whole.shape and 0 <= grey.min() and grey.max() <= 1
    assert np.abs(grey - whole).mean() > 0.01
    if name == "round":  # the black border outside the circle is not scored
        assert 0.4 < pair.mask.sum() / plain.mask.sum() < 0.8
    else:
        assert (pair.mask == plain.mask).all()


def test_spoiled_values_keep_the_rest_of_the_picture(modalities):
    aligned = ("", smooth((120, 160)), smooth((120, 160)))
    whole = modalities.draw(modalities.CASES["clean"], aligned, 2)[1]
    for name, spoiled, share in (
        ("stuck-pixels", lambda grey: np.abs(grey) > 1, 0.01),
        ("furnace", lambda grey: grey == 600, 0.04),
        ("no-data", lambda grey: grey == -9999, 1 / 16 + 0.01),
    ):
        grey = modalities.draw(modalities.CASES[name], aligned, 2)[1]
        bad = spoiled(grey)
        assert bad.mean() == pytest.approx(share, rel=0.1), name
        unit = grey if name == "stuck-pixels" else (grey - 10) / 25
        np.testing.assert_allclose(unit[~bad], whole[~bad], atol=1e-5, err_msg=name)


def test_a_slice_of_a_head_is_scored_without_the_black_around_it(modalities, data, tmp_path):
    aligned = next(modalities.slices("mri-pet", data))
    pair, moving = modalities.draw(modalities.CASES["mri-pet"], aligned, 0)
    assert moving.shape == (64, 64, 3) and not pair.mask[:8].any() and pair.mask[32, 32]
    cases = ["mri-pet", "mri-ct"]
    modalities.main(tmp_path, model="identity", case=cases, seeds="0,1", threads=1, data_root=data)
    rows = read(tmp_path / "rows.csv")
    assert [row["seed"] for row in rows] == ["0", "1"]
    assert all(row["epe"] == row["before"] and float(row["epe"]) > 0.5 for row in rows)
    (line,) = read(tmp_path / "table.csv")
    mean = np.mean([float(row["epe"]) for row in rows])
    assert line["n"] == "2" and float(line["epe_mean"]) == pytest.approx(mean)
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert f"| MRI, PET | 2 | {mean:.2f} | {mean:.2f} |" in text
    assert "Left out: mri-ct (" in text


def test_modalities_says_what_it_cannot_use(modalities, tmp_path):
    with pytest.raises(typer.BadParameter, match="--case: need some of"):
        modalities.main(tmp_path, model="identity", case=["x-ray"])
    with pytest.raises(typer.BadParameter, match="nothing to measure: mri-ct"):
        modalities.main(tmp_path, model="identity", case=["mri-ct"], data_root=tmp_path)


def test_features_tell_trained_networks_from_random_ones(folder):
    features = importlib.import_module("features")
    torch.manual_seed(0)
    random = MatchingNetworks(Matcher().eval(), Likelihood().eval())
    matches, blocks = zip(
        *(
            features.measure(networks, "photographs/inverted", Path(), 1)
            for networks in (features.load(None), random)
        ),
        strict=True,
    )
    assert matches[0] > 0.25 > 0.05 > matches[1]
    assert blocks[0] > 0.95  # edges alone give .94


def test_a_made_series_has_a_drift_a_step_and_blank_frames(folder):
    series = importlib.import_module("series")
    fixed, frames, truth, blanks = series.film("photograph", 60, 64, seed=0)
    assert frames.shape == (60, 64, 64) and blanks == [3, 18, 19, 20, 48]
    assert all(frames[n].std() < 5 < frames[n - 1].std() for n in (3, 48))
    steps = np.hypot(*np.diff(truth, axis=0).T)
    assert steps.argmax() == 29 and 10 < steps[29] < 13
    bent = 20 + 200 * (1 - (fixed / 255.0) ** 1.5)
    shift = np.round(truth[23] - 31.5).astype(int)
    moved = np.roll(bent, shift, (0, 1))[12:-12, 12:-12]
    assert np.abs(moved - frames[23, 12:-12, 12:-12]).mean() < 15
    result = SimpleNamespace(
        drift=truth - truth[0],
        transforms=[
            Transform(
                [(1, 0, r), (0, 1, c), (0, 0, 1)], fixed_shape=(64, 64), moving_shape=(64, 64)
            )
            for r, c in truth - 31.5
        ],
    )
    for found in series.errors(result, truth):
        np.testing.assert_allclose(found, 0, atol=1e-9)


def test_files_that_a_kill_would_leave_half_written_are_found(folder, tmp_path):
    batches = importlib.import_module("batches")
    pairs = batches.make_pairs(tmp_path, 2)
    assert sorted(path.name for path in pairs[1].iterdir()) == ["000.png", "001.png"]
    assert batches.partial_files(pairs[1]) == []
    (pairs[1] / "000_mask.png").write_bytes((pairs[1] / "000.png").read_bytes()[:400])
    (pairs[1] / "000_report.json").write_text("{")
    (pairs[1] / "000.busref.h5").write_bytes(b"")
    assert len(batches.partial_files(pairs[1])) == 3
