"""Fusing block by block gives the result of the whole image, and continues where it stopped."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from napari_busref import Transform, fuse, open_image, write_fused, write_image
from napari_busref.data.samples import thermal_scene
from napari_busref.fusion import streaming, tiling
from napari_busref.fusion.cells import CellSums, cell_means, enlarge
from napari_busref.images import pyramid
from napari_busref.runtime.progress import Cancelled

pytest.importorskip("zarr", reason="needs napari-busref[large]")

SHAPE = (400, 528)
SAMPLE = thermal_scene(0, SHAPE)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 256 px; images as small as these run at half the resolution."""
    monkeypatch.setattr(pyramid, "BLOCK", 256)
    monkeypatch.setattr(pyramid, "_CHUNK", 128)
    monkeypatch.setattr("napari_busref.fusion.halving.WHOLE_PIXELS", 50_000)


@pytest.fixture(scope="module")
def infrared():
    return SAMPLE.truth.apply(SAMPLE.moving)


def levels(made, whole, full=255.0):
    """Largest difference in grey levels of 255."""
    apart = np.abs(np.asarray(open_image(made).read(), float) - np.asarray(whole, float))
    return float(np.nanmax(apart)) * 255 / full


@pytest.mark.parametrize("model", ["gaf", "laplacian", "average", "mda"])
def test_blocks_have_the_result_of_the_whole(tmp_path, infrared, model):
    mask = SAMPLE.truth.mask()
    made = write_fused(
        tmp_path / "a.ome.zarr", SAMPLE.fixed, infrared, mask=mask, model=model, device="cpu"
    )
    whole = fuse(SAMPLE.fixed, infrared, mask=mask, model=model, device="cpu").fused
    assert levels(made, whole) <= 1
    assert open_image(made).shape == whole.shape


@pytest.mark.parametrize("halved", [True, False])
def test_a_transform_and_options_are_as_in_fuse(tmp_path, monkeypatch, halved):
    if not halved:
        monkeypatch.setattr("napari_busref.fusion.halving.WHOLE_PIXELS", 1e9)
    options = {"detail": 0.7, "feather": 5.0, "transform": SAMPLE.truth, "device": "cpu"}
    made = write_fused(tmp_path / "a.ome.zarr", SAMPLE.fixed, SAMPLE.moving, **options)
    whole = fuse(SAMPLE.fixed, SAMPLE.moving, **options).fused
    assert levels(made, whole) <= 1


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_the_range_is_that_of_the_whole(tmp_path, infrared, dtype):
    grey = SAMPLE.fixed[..., 1] if SAMPLE.fixed.ndim == 3 else SAMPLE.fixed
    visible = (grey.astype(np.float64) * 37 + 900).astype(dtype)
    thermal = infrared.astype(np.float32) / 10 - 12
    thermal[:, :60] = np.nan
    made = write_fused(tmp_path / "a.ome.zarr", visible, thermal, device="cpu")
    whole = fuse(visible, thermal, device="cpu").fused
    assert open_image(made).dtype == dtype
    assert levels(made, whole, 255 * 37) <= 1


def test_an_empty_border_stays_visible(tmp_path, infrared):
    empty = infrared.copy()
    empty[:, :80] = 0
    empty[:70] = 0
    made = write_fused(tmp_path / "a.ome.zarr", SAMPLE.fixed, empty, device="cpu")
    whole = fuse(SAMPLE.fixed, empty, device="cpu").fused
    assert levels(made, whole) <= 1
    np.testing.assert_array_equal(open_image(made)[:70, :80], SAMPLE.fixed[:70, :80])


def test_files_and_two_colour_pictures(tmp_path):
    rng = np.random.default_rng(0)
    near, far = (rng.integers(0, 255, (*SHAPE, 3), np.uint8) for _ in range(2))
    for name, image in (("near", near), ("far", far)):
        write_image(tmp_path / f"{name}.tif", image)
    options = {"task": "multi-focus", "model": "average", "device": "cpu"}
    made = write_fused(tmp_path / "a.tif", tmp_path / "near.tif", tmp_path / "far.tif", **options)
    assert levels(made, fuse(near, far, **options).fused) <= 1


@pytest.mark.parametrize("stop", [3, 16, 24])
def test_a_stopped_fusion_is_resumed(tmp_path, infrared, monkeypatch, stop):
    calls, cancel, run = [], threading.Event(), streaming.run_network
    steps = iter(range(10_000))

    def counted(*arguments):
        calls.append(1)
        return run(*arguments)

    def progress(words, fraction):
        if next(steps) == stop:
            cancel.set()

    monkeypatch.setattr(streaming, "run_network", counted)
    mask = np.ones(SHAPE, bool)
    given, path = (SAMPLE.fixed, infrared), tmp_path / "a.ome.zarr"
    with pytest.raises(Cancelled):
        write_fused(path, *given, mask=mask, device="cpu", progress=progress, cancel=cancel)
    assert not path.exists()
    write_fused(path, *given, mask=mask, device="cpu", resume=True)
    whole = fuse(*given, mask=mask, device="cpu").fused
    assert levels(path, whole) <= 1
    assert len(calls) <= 2 * 6 + 6  # two passes of six blocks; a stopped first pass begins again


def test_arguments_are_named(tmp_path, infrared, monkeypatch):
    path = tmp_path / "a.ome.zarr"
    with pytest.raises(ValueError, match=r"moving: got shape .* need .* as fixed"):
        write_fused(path, SAMPLE.fixed, infrared[:-1])
    with pytest.raises(ValueError, match="mask: got shape"):
        write_fused(path, SAMPLE.fixed, infrared, mask=np.ones((3, 3), bool))
    with pytest.raises(ValueError, match="transform: made for images"):
        write_fused(path, SAMPLE.fixed, infrared, transform=Transform.identity((9, 9)))
    monkeypatch.setenv("NAPARI_BUSREF_MEMORY", "0.0005")
    with pytest.raises(MemoryError, match="model: holds"):
        write_fused(path, SAMPLE.fixed, infrared, device="cpu")
    assert not path.exists()


def test_cells_and_windows_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    image, mask = rng.random((103, 88)).astype(np.float32), rng.random((103, 88)) > 0.4
    sums = CellSums(image.shape, 7, 1)
    for window in pyramid.blocks_of(image.shape, 30):
        sums.add(window, mask[window], image[window])
    np.testing.assert_allclose(sums.means[0], cell_means(image, 7, mask), atol=1e-6)
    np.testing.assert_allclose(sums.coverage, cell_means(mask, 7), atol=1e-6)
    assert sums.covered == mask.sum()
    whole = enlarge(sums.means[0], 7, image.shape)
    for window in pyramid.blocks_of(image.shape, 30):
        part = enlarge(sums.means[0], 7, image.shape, window)
        np.testing.assert_allclose(part, whole[window], atol=1e-5)


def test_the_margin_of_gaf_is_enough():
    from napari_busref.models.fusion.gaf import Gaf

    assert Gaf.whole_receptive_field >= 48  # a margin of 48 px leaves 1.5e-5 grey levels
    assert tiling.cut((512, 512), 256, Gaf.whole_receptive_field, 8)[0].padded[0].stop == 320
