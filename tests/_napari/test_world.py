"""Layers at any position in the world: a run starts there, and its results lie on the fixed one.

With the real pipeline, as the panel calls it.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest

pytest.importorskip("napari")

from napari.components import ViewerModel
from napari.layers import Image

import napari_busref
from napari_busref._napari.register.run import make_request, run
from napari_busref._napari.register.settings import Settings
from napari_busref.transforms.transform import Transform

FIXED, MOVING = (72, 96), (80, 88)
TURN = [[0.9, 0.2, 3.0], [-0.15, 1.1, 5.0], [0, 0, 1]]
NM = ("nm", "nm")
UM = ("um", "um")

#: Positions of the fixed and of the moving layer; with units, the world is in µm.
CASES = {
    "pixel size": ({"scale": (1, 1)}, {"scale": (0.8, 1.25)}),
    "offset": ({"translate": (5, -3)}, {"translate": (9, 2)}),
    "rotation": ({"rotate": 12}, {"rotate": -10, "translate": (8, -6)}),
    "shear": ({"shear": [0.2]}, {"shear": [-0.1], "translate": (2, 4)}),
    "affine": ({}, {"affine": TURN}),
    "units": (
        {"scale": (0.5, 0.5), "units": UM},
        {"scale": (500, 500), "translate": (1500, -1000), "units": NM},
    ),
    "all at once": (
        {
            "scale": (0.5, 0.4),
            "translate": (10, -4),
            "rotate": 20,
            "shear": [0.1],
            "affine": [[0.9, 0.1, 3.0], [-0.1, 1.1, 5.0], [0, 0, 1]],
            "units": UM,
            "axis_labels": ("y", "x"),
        },
        {
            "scale": (480, 420),
            "translate": (8000, -6000),
            "rotate": 14,
            "shear": [-0.05],
            # napari's affine is in the layer's own units
            "affine": [[0.9, 0.1, 3500.0], [-0.1, 1.1, 5500.0], [0, 0, 1]],
            "units": NM,
            "axis_labels": ("row", "col"),
        },
    ),
}


def scene(world: np.ndarray, size: float) -> np.ndarray:
    """Brightness at world points (..., 2), in waves of `size` that do not repeat."""
    y, x = np.moveaxis(world / size, -1, 0)
    waves = np.sin(y / 3 + 2 * np.sin(x / 7)) * np.cos(x / 2.5 - y / 9) + np.sin((x + 2 * y) / 17)
    return (0.5 + waves / 4).astype(np.float32)


def photographed(
    name: str, shape: tuple[int, int], position: dict, *, off=(0.0, 0.0), wave=1.0
) -> Image:
    """Image the scene at the layer's position, shifted by `off` pixels."""
    layer = Image(np.zeros(shape, np.float32), name=name, **position)
    pixels = np.stack(np.mgrid[: shape[0], : shape[1]], axis=-1).reshape(-1, 2) + off
    origin, down, right = (np.array(layer.data_to_world(p)) for p in ((0, 0), (1, 0), (0, 1)))
    world = origin + pixels @ [down - origin, right - origin]
    thousandth = 1000 if position.get("units") == NM else 1  # the scene is in µm
    scale = 0.5 if "units" in position else 1.0  # µm in a pixel
    layer.data = scene(world / thousandth, scale * wave).reshape(shape)
    return layer


def outcome(fixed: Image, moving: Image, **settings):
    """Run as the button does."""
    viewer = ViewerModel()
    for layer in (fixed, moving):
        viewer.add_layer(layer)
    chosen = Settings(model="identity", search="none", device="cpu", fused=False, **settings)
    request = make_request(viewer, fixed, moving, chosen)
    return run(request, progress=lambda *_: None, cancel=threading.Event())


def lies_on(layer, fixed: Image) -> None:
    """The image layer has the pixels, position, units and axis labels of the fixed layer."""
    corners = [(0, 0), (0, FIXED[1] - 1), (FIXED[0] - 1, 0), (FIXED[0] - 1, FIXED[1] - 1)]
    np.testing.assert_allclose(
        [layer.data_to_world(corner) for corner in corners],
        [fixed.data_to_world(corner) for corner in corners],
        rtol=0,
        atol=1e-9,
    )
    assert layer.data.shape == FIXED
    assert layer.units == fixed.units
    assert layer.axis_labels == fixed.axis_labels


@pytest.mark.parametrize("case", CASES)
def test_the_start_is_where_the_layers_are_and_results_lie_on_the_fixed_one(case):
    """Layers at the right positions agree everywhere without refinement."""
    positions = CASES[case]
    fixed = photographed("vis", FIXED, positions[0], wave=3)
    moving = photographed("ir", MOVING, positions[1], wave=3)
    found = outcome(fixed, moving, refine="none")
    warped, mask, arrows = found.layers
    for layer in (warped, mask):
        lies_on(layer, fixed)
    inside = mask.data.astype(bool)
    assert inside.mean() > 0.3
    error = np.abs(warped.data - fixed.data)[inside].max()
    # the error of one interpolation; a shift of one pixel gives many times that
    assert error < 0.02
    # the roll brings in NaN from outside the moving image
    shifted = np.abs(np.roll(warped.data, 1, 1) - fixed.data)[inside]
    assert np.nanmax(shifted) > max(10 * error, 0.02)
    assert arrows.units == fixed.units and arrows.axis_labels == fixed.axis_labels
    np.testing.assert_allclose(arrows.data_to_world((3, 4)), fixed.data_to_world((3, 4)))


@pytest.mark.parametrize("case", ["pixel size", "shear", "affine", "all at once"])
def test_a_registration_goes_on_from_there(case):
    """Registration corrects positions that are some pixels off."""
    positions = CASES[case]
    off = (1.5, -2.0)  # pixels of the moving layer
    fixed = photographed("vis", FIXED, positions[0])
    moving = photographed("ir", MOVING, positions[1], off=off)
    found = outcome(fixed, moving, refine="affine")
    lies_on(found.layers[0], fixed)
    start, transform = found.result.initial, found.result.transform
    assert isinstance(start, Transform)
    places = np.stack(np.mgrid[8:64:8, 8:88:8], axis=-1).reshape(-1, 2).astype(float)
    right = start.points(places) - off
    inside = ((right > 6) & (right < np.array(MOVING) - 7)).all(axis=1)
    assert inside.sum() > 10
    before, after = (
        np.linalg.norm(one.points(places) - right, axis=1)[inside] for one in (start, transform)
    )
    np.testing.assert_allclose(before, 2.5)
    assert after.max() < 0.8


def test_a_script_makes_one_call_of_it():
    """A film, with a transform for each image."""
    position = {"units": ("s", "um", "um"), "axis_labels": ("t", "y", "x")}
    picture = photographed("vis", FIXED, {"units": UM})
    viewer = ViewerModel()
    fixed = viewer.add_image(np.stack([picture.data] * 2), name="vis", **position)
    moving = viewer.add_image(np.stack([picture.data[::2, ::2]] * 2), name="ir", **position)
    moving.scale, moving.translate = (1, 2, 2), (0, 0.5, 0.5)
    part = viewer.add_labels(np.ones(FIXED, int), name="part", units=UM)
    options = {"model": "identity", "fusion_model": "average", "device": "cpu"}
    layers = napari_busref.register_layers(
        viewer, fixed, moving, fixed_mask=part, planes="each", displacement="lengths", **options
    )
    assert list(viewer.layers) == [fixed, moving, part]
    roles = [layer.metadata["napari-busref"]["role"] for layer in layers]
    assert roles == ["warped", "mask", "fused", "magnitude"]
    for layer in layers[:3]:
        assert layer.data.shape == (2, *FIXED)
        assert (layer.units, layer.axis_labels) == (fixed.units, ("t", "y", "x"))
    with pytest.raises(ValueError, match=r"planes: got 'all', need one of \['plane', 'one'"):
        napari_busref.register_layers(viewer, fixed, moving, planes="all")
    with pytest.raises(ValueError, match="no output"):
        napari_busref.register_layers(
            viewer, fixed, moving, warped=False, mask=False, fused=False, displacement="none"
        )
