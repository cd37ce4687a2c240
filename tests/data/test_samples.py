from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage as ndi

from napari_busref.data import samples
from napari_busref.metrics.registration import draw_warp

SMALL = (120, 160)
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def street() -> samples.Sample:
    return samples.thermal_scene(0, SMALL)


@pytest.fixture(scope="module")
def tissue() -> samples.Sample:
    return samples.stain_pair()


def edge_agreement(first: np.ndarray, second: np.ndarray, mask: np.ndarray) -> float:
    """Mean agreement of edge orientations, whatever the contrasts' signs, weighted by both."""
    angles = []
    for image in (first, second):
        smooth = ndi.gaussian_filter(image.astype(float), 1)
        rows, cols = ndi.sobel(smooth, 0), ndi.sobel(smooth, 1)
        angles.append((np.hypot(rows, cols), np.arctan2(rows, cols)))
    weight = angles[0][0] * angles[1][0] * mask
    return float((weight * np.cos(2 * (angles[0][1] - angles[1][1]))).sum() / weight.sum())


def grey(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 2 else image @ np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("name", samples.list_samples())
def test_a_sample_is_what_it_says(name, street, tissue):
    sample = {"thermal": street, "stain": tissue}[name]
    assert sample.name == name
    assert sample.fixed.dtype == sample.moving.dtype == sample.aligned.dtype == np.uint8
    assert sample.moving.shape == sample.aligned.shape == sample.fixed.shape[:2]
    assert sample.truth.moving_shape == sample.moving.shape
    # full contrast in all images
    for image in (sample.fixed, sample.aligned):
        assert np.ptp(image) > 200
        assert image.std() > 30


@pytest.mark.parametrize("name", samples.list_samples())
def test_the_truth_undoes_the_warp(name, street, tissue):
    sample = {"thermal": street, "stain": tissue}[name]
    mask = ndi.binary_erosion(sample.truth.mask(), iterations=2)
    assert 0.5 < mask.mean() < 1
    restored = sample.truth.apply(sample.moving)
    before = np.corrcoef(sample.moving[mask], sample.aligned[mask])[0, 1]
    after = np.corrcoef(restored[mask], sample.aligned[mask])[0, 1]
    assert after > 0.95
    assert before < after - 0.2
    # the warp is far from trivial
    shift = np.hypot(*sample.truth.flow())
    assert shift.mean() > 0.03 * min(SMALL)


def test_the_truth_is_the_inverse_of_the_protocol_warp(street):
    warp = draw_warp(SMALL, 5)
    points = np.argwhere(street.truth.mask())[::97].astype(float)
    there = street.truth.points(points)
    back = warp.points(there.T).T
    np.testing.assert_allclose(back, points, atol=0.01)


@pytest.mark.parametrize("name", samples.list_samples())
def test_both_modalities_share_edges_only_when_aligned(name, street, tissue):
    sample = {"thermal": street, "stain": tissue}[name]
    mask = sample.truth.mask()
    reference = grey(sample.fixed)
    agreement = edge_agreement(reference, sample.aligned, mask)
    assert agreement > 0.15
    assert agreement > edge_agreement(reference, sample.moving, mask) + 0.1


def test_the_street_looks_different_to_the_two_cameras():
    sample = samples.thermal_scene(0)
    visible, infrared = grey(sample.fixed), sample.aligned.astype(float)
    assert sample.fixed.shape == (384, 512, 3)
    # not one a function of the other
    assert abs(np.corrcoef(visible.ravel(), infrared.ravel())[0, 1]) < 0.7
    # lamps saturate the visible image, warm things the thermal one, in different places
    lamps, warm = visible > 245, infrared > 245
    assert 1e-4 < lamps.mean() < 0.1
    assert 1e-4 < warm.mean() < 0.1
    assert (lamps & warm).sum() < 0.5 * min(lamps.sum(), warm.sum())
    # the sky is cold
    assert infrared[:40].min() < 20


def test_same_seed_same_sample_other_seed_another_one(street):
    again, other = samples.thermal_scene(0, SMALL), samples.thermal_scene(1, SMALL)
    np.testing.assert_array_equal(again.fixed, street.fixed)
    np.testing.assert_array_equal(again.moving, street.moving)
    assert again.truth == street.truth
    assert other.truth != street.truth
    assert (other.fixed != street.fixed).mean() > 0.5


@pytest.mark.parametrize("shape", [(64, 64), (200, 96), (65, 131)])
@pytest.mark.parametrize("seed", [2, 11])
def test_any_seed_and_shape(shape, seed):
    sample = samples.thermal_scene(seed, shape)
    assert sample.fixed.shape == (*shape, 3)
    assert sample.moving.shape == shape
    assert sample.aligned.std() > 20


def test_seed_0_shows_the_whole_stored_street():
    sample = samples.thermal_scene()
    with np.load(samples._STREET) as stored:
        np.testing.assert_array_equal(sample.fixed, stored["visible"])
        np.testing.assert_array_equal(sample.aligned, np.rint(255 * stored["infrared"]))


def test_the_stored_street_is_the_rendered_one(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = importlib.import_module("render_street")
    assert script.STORED.samefile(samples._STREET)
    with np.load(samples._STREET) as stored:
        assert sorted(stored) == ["infrared", "visible"]
        visible, infrared = script.pair()
        assert stored["visible"].dtype == visible.dtype
        assert stored["infrared"].dtype == infrared.dtype
        # the last bit of numpy's float32 functions depends on the processor
        np.testing.assert_allclose(stored["infrared"], infrared, rtol=0, atol=1e-5)
        np.testing.assert_allclose(stored["visible"].astype(int), visible, rtol=0, atol=1)
        assert (stored["visible"] != visible).mean() < 1e-3


@pytest.mark.parametrize("shape", [(384, 512), (64, 64), (200, 96), (65, 131), (500, 900)])
def test_the_seed_picks_a_large_part_of_the_street(shape):
    whole = np.moveaxis(np.indices((384, 512)), 0, -1)
    mirrored = set()
    for seed in range(20):
        part = whole[samples._part((384, 512), shape, np.random.default_rng(seed))]
        height, width = part.shape[:2]
        assert 0.59 < height / 384 <= 1 and 0.59 < width / 512 <= 1
        np.testing.assert_array_equal(np.unique(np.diff(part[..., 0], axis=0)), 1)
        (step,) = np.unique(np.diff(part[..., 1], axis=1))
        assert step in (-1, 1)
        mirrored.add(step)
    assert mirrored == {-1, 1}


def test_both_cameras_show_the_same_part(monkeypatch, tmp_path):
    with np.load(samples._STREET) as stored:
        infrared = stored["infrared"]
    grey_visible = np.stack([np.uint8(255 * infrared)] * 3, -1)
    np.savez(tmp_path / "equal.npz", visible=grey_visible, infrared=infrared)
    monkeypatch.setattr(samples, "_STREET", tmp_path / "equal.npz")
    for seed in (1, 2, 3):
        sample = samples.thermal_scene(seed, SMALL)
        difference = sample.fixed[..., 0].astype(int) - sample.aligned
        assert np.abs(difference).max() <= 2


def test_loading_by_name(street):
    assert samples.list_samples() == ["thermal", "stain"]
    np.testing.assert_array_equal(
        samples.load_sample("stain", 3).moving, samples.stain_pair(3).moving
    )
    with pytest.raises(ValueError, match="name: got 'moon', need one of 'thermal', 'stain'"):
        samples.load_sample("moon")
    with pytest.raises(ValueError, match="shape: got"):
        samples.thermal_scene(shape=(63, 200))
    with pytest.raises(ValueError, match="seed: got -1"):
        samples.thermal_scene(-1)
    with pytest.raises(ValueError, match="seed: got 'a'"):
        samples.stain_pair("a")


def test_the_tissue_image_is_a_file_of_the_scikit_image_wheel():
    from importlib.metadata import files

    listed = files("scikit-image")
    assert listed is not None
    assert any(str(file).endswith("skimage/data/ihc.png") for file in listed)
