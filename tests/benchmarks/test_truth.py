"""The benchmark that measures the error of the truth."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from imageio.v3 import imread
from skimage.color import rgb2gray

from napari_busref import register
from napari_busref.data.samples import thermal_scene
from napari_busref.metrics import registration

OFFSET = (0, 3)  # rows, columns: error of the alignment of the infrared image


@pytest.fixture
def truth(monkeypatch: pytest.MonkeyPatch):
    path = Path(__file__).resolve().parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(str(path))
    return importlib.import_module("truth")


@pytest.fixture(scope="module")
def visible() -> np.ndarray:
    return rgb2gray(thermal_scene(1, (160, 240)).fixed)


def test_sift_measures_an_offset(truth, visible) -> None:
    positions, offsets = truth.sift_matches(visible, np.roll(visible, OFFSET, (0, 1)))
    assert len(positions) > truth.MIN_MATCHES
    np.testing.assert_allclose(np.median(offsets, 0), OFFSET, atol=0.2)


def test_noise_has_too_few_matches(truth, visible) -> None:
    noise = np.random.default_rng(0).random(visible.shape)
    assert len(truth.sift_matches(visible, noise)[0]) < truth.MIN_MATCHES


def test_a_correct_registration_of_a_misaligned_pair(truth, visible, monkeypatch) -> None:
    """It agrees with SIFT, and its whole error is common to all warps."""
    drawn = []

    def make_pair(*args, **kwargs):
        drawn.append(registration.SyntheticPair(*vars(original(*args, **kwargs)).values()))
        return drawn[-1]

    def register(fixed, moving, **kwargs):
        source = np.roll(drawn[-1].warp.true_source(), [-n for n in OFFSET], (1, 2))
        return SimpleNamespace(flow=source - registration.pixel_grid(fixed.shape))

    original = registration.make_pair
    monkeypatch.setattr(registration, "make_pair", make_pair)
    monkeypatch.setattr("napari_busref.register", register)
    monkeypatch.setattr(
        truth, "register_with_truth", lambda pair, *_: register(pair.fixed, 0).flow
    )
    monkeypatch.setattr(registration.SyntheticWarp, "mask", inner)
    row = truth.measure(np.roll(visible, OFFSET, (0, 1)), visible, [0, 1], None, "cpu")
    assert row["epe"] == pytest.approx(3, abs=0.05)
    assert row["common_square"] == pytest.approx(9, abs=0.3)
    assert row["given"] == pytest.approx(3, abs=0.2) and row["seen"] < 0.5
    mean = truth.summary([row | {"moved": 3.0}])
    assert mean["common"] == pytest.approx(3, abs=0.05) and mean["sifted"] == 1
    assert truth.table({"here": mean}).splitlines()[-1].startswith("| here | 1 | 3.0")


def inner(warp) -> np.ndarray:
    """The mask without the content that the roll wraps around."""
    found = np.zeros(warp.shape, bool)
    found[30:-30, 30:-30] = True
    return found


def test_without_matches_their_columns_are_empty(truth) -> None:
    row = {
        "epe": 2.0,
        "told": 1.0,
        "moved": 2.0,
        "square": 4.0,
        "common_square": -0.1,
        "matches": 3,
    }
    mean = truth.summary([row | {"off": 1.0, "given": 1.0, "seen": 1.0}])
    assert mean["sifted"] == 0 and mean["off"] is None and mean["common"] == 0
    assert truth.table({"here": mean}).rstrip().endswith("|  |  |  |")


def test_pairs_are_drawn_as_given_and_as_registered(truth, visible, monkeypatch, tmp_path) -> None:
    whole = np.ones(visible.shape, bool)
    found = SimpleNamespace(
        warped=visible, mask=whole, flow=np.array([0.0, 3.0])[:, None, None] * whole
    )
    monkeypatch.setattr("napari_busref.register", lambda *images, **options: found)
    path = tmp_path / "set" / "pair.png"
    assert truth.draw_as_registered(
        np.roll(visible, 3, 1), visible, None, "cpu", path
    ) == pytest.approx(3)
    given, registered = np.split(imread(path).astype(int), 2, axis=1)
    apart = [np.abs(side[..., 0] - side[..., 1]).mean() for side in (given, registered)]
    assert apart[1] == 0 < apart[0]


def test_a_fit_with_the_truth_finds_it(truth, visible) -> None:
    """Also for a misaligned pair, whose images contradict the truth."""
    pair = registration.make_pair(np.roll(visible, OFFSET, (0, 1)), visible, 0)
    images = (pair.fixed, pair.moving.astype(np.float32))
    flows = {
        "images": register(*images, device="cpu").flow,
        "truth": truth.register_with_truth(pair, 0, "auto", "cpu"),
    }
    score, grid = registration.Scorer(pair), registration.pixel_grid(visible.shape)
    errors = {name: score(grid + flow) for name, flow in flows.items()}
    assert errors["images"]["epe"] > 2.5
    assert errors["truth"]["epe"] < errors["images"]["epe"] / 2
