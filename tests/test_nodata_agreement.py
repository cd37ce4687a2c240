"""Mask, resampling, fusion and napari's layers agree on what is missing, in drawn cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from napari_busref import Transform, fuse, load_sample, register

SHAPE = (120, 160)
AS_IT_IS: dict[str, Any] = {"model": "identity", "search": "none", "refine": "none"}
MARKS: dict[str, tuple[Any, ...]] = {
    "f": (-9999, -32768, np.nan, np.inf, 1e20, -3.4028235e38, "masked", "given"),
    "i": (-9999, -32768, "masked", "given"),
    "u": (0, 65535, "masked", "given"),
}


def drawn_empty(rng: np.random.Generator) -> NDArray[np.bool_]:
    """A band, two corners, a hole or blobs."""
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    kind = rng.integers(4)
    if kind == 0:
        return np.asarray(rows < rng.integers(8, 40))
    if kind == 1:
        cut = rng.integers(40, 80)
        return np.asarray((rows + cols < cut) | (rows + cols > sum(SHAPE) - cut))
    if kind == 2:
        top, left, side = rng.integers(0, 80), rng.integers(0, 110), rng.integers(10, 40)
        inside = (abs(rows - top - side / 2) < side / 2) & (abs(cols - left) < side)
        return np.asarray(inside)
    return np.asarray(ndimage.gaussian_filter(rng.normal(size=SHAPE), 9) > 0.02)


def drawn_image(
    rng: np.random.Generator, scene: NDArray[Any], empty: NDArray[np.bool_]
) -> tuple[Any, dict[str, Any], Any]:
    """A thermal image with missing pixels, the options that name them, and their value."""
    dtype = np.dtype(rng.choice(["f4", "f8", "i2", "u2", "i4"]))
    celsius = 10 + scene / 10.2
    image = (celsius if dtype.kind == "f" else 30 * celsius + 5000).astype(dtype)
    marks = MARKS[dtype.kind]
    mark = marks[rng.integers(len(marks))]
    if mark == "masked":
        return np.ma.MaskedArray(image, empty), {}, 0
    options = {}
    if mark == "given":
        mark = int(image[~empty][0])  # also where content has this value
        options = {"nodata": float(mark)}
        image[image == mark] += 1
    image[empty] = mark
    return image, options, mark


@pytest.mark.parametrize("seed", range(10))
def test_what_is_missing_is_the_same_for_everything(seed):
    rng = np.random.default_rng(seed)
    sample = load_sample("thermal")
    part = np.s_[100 : 100 + SHAPE[0], 150 : 150 + SHAPE[1]]
    fixed, scene = sample.fixed[part], sample.aligned[part]
    empty = drawn_empty(rng)
    image, options, mark = drawn_image(rng, scene, empty)
    result = register(fixed, image, **AS_IT_IS, **options)
    np.testing.assert_array_equal(result.mask, ~empty)
    warped = np.ma.getdata(result.warped)
    if warped.dtype.kind == "f":
        np.testing.assert_array_equal(np.isfinite(warped), ~empty)
    else:
        assert set(np.unique(warped[empty])) <= {0, mark}
    np.testing.assert_array_equal(warped[~empty], np.ma.getdata(image)[~empty])
    fused = fuse(fixed, image, model="laplacian", **options).fused
    np.testing.assert_array_equal(fused[empty], fixed[empty])
    # between pixels nothing is blended with what is missing
    half = Transform([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]], fixed_shape=SHAPE, moving_shape=SHAPE)
    between = register(fixed, image, initial=half, **AS_IT_IS, **options)
    seen = np.ma.getdata(between.warped)[between.mask].astype(float)
    content = np.ma.getdata(image)[~empty].astype(float)
    assert content.min() - 1e-3 <= seen.min() and seen.max() <= content.max() + 1e-3
    wider = ndimage.binary_dilation(empty, np.ones((3, 3)))
    assert not (between.mask & empty).any() and between.mask[:-1, :-1][~wider[:-1, :-1]].all()


@pytest.mark.parametrize("seed", [0, 5])
def test_layers_of_napari_have_the_same_mask(seed):
    pytest.importorskip("napari")
    from napari.components import ViewerModel

    from napari_busref import register_layers

    rng = np.random.default_rng(seed)
    sample = load_sample("thermal")
    fixed, scene = sample.fixed[: SHAPE[0], : SHAPE[1]], sample.aligned[: SHAPE[0], : SHAPE[1]]
    empty = drawn_empty(rng)
    celsius = (10 + scene / 10.2).astype(np.float32)
    celsius[empty] = rng.choice([-9999, -3.4028235e38, np.nan])
    viewer = ViewerModel()
    layers = [viewer.add_image(one, name=name) for one, name in ((fixed, "v"), (celsius, "i"))]
    made = register_layers(viewer, *layers, **AS_IT_IS, fused=True, device="cpu")
    by_name = {layer.name: np.asarray(layer.data) for layer in made}
    np.testing.assert_array_equal(by_name["i mask"] > 0, ~empty)
    np.testing.assert_array_equal(np.isfinite(by_name["i warped"]), ~empty)
    np.testing.assert_array_equal(by_name["v fused"][empty], fixed[empty])
