"""Fusing what is registered once more."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_busref import fuse
from napari_busref._napari.register.fuse_again import fuse_again, slider_preview
from napari_busref._napari.register.run import make_request, run
from napari_busref._napari.register.settings import Settings

QUICK = Settings(model="identity", search="none", refine="none", device="cpu")


def again(fixed, moving, *settings):
    """Run by the first settings and fuse again by the others; the request and both outcomes."""
    viewer = ViewerModel()
    layers = [viewer.add_layer(layer) for layer in (fixed, moving)]
    first, *others = settings
    request = make_request(viewer, *layers, first)
    calls = {"progress": lambda *_: None, "cancel": threading.Event()}
    outcomes = [run(request, **calls)]
    for other in others:
        request = replace(request, settings=other)
        outcomes.append(fuse_again(request, outcomes[-1].result, **calls))
    return request, outcomes


def picture(shape=(40, 56), seed=0, **options):
    data = np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)
    return Image(data, contrast_limits=(0, 255), **options)


@pytest.fixture
def registered_once(monkeypatch):
    """Fail when anything is registered a second time."""
    from napari_busref import registration

    calls = []
    inner = registration.register

    def counted(*args, **options):
        calls.append(args)
        assert len(calls) == 1
        return inner(*args, **options)

    monkeypatch.setattr(registration, "register", counted)


def test_another_model_and_other_sliders(registered_once):
    first = replace(QUICK, fusion_model="average")
    other = replace(QUICK, fusion_model="maximum", infrared=0.8, detail=0.7)
    fixed, moving = picture((40, 56, 3), name="vis", rgb=True), picture(seed=1, name="ir")
    _, (before, after) = again(fixed, moving, first, other)
    found = before.result.registration
    assert after.result.transform is before.result.transform
    options = {"model": "maximum", "infrared": 0.8, "detail": 0.7, "device": "cpu"}
    expected = fuse(fixed.data, found.warped, mask=found.mask, **options).fused
    assert np.array_equal(np.squeeze(after.result.fused), expected)
    (layer,) = after.layers
    assert layer.name == "vis fused"
    assert np.array_equal(layer.data, expected)
    assert layer.metadata["napari-busref"]["parameters"]["fusion"]["model"] == "maximum"


@pytest.mark.parametrize("style", ["msx", "overlay", "inset"])
def test_another_style_is_a_picture_in_colours(registered_once, style):
    moving = picture(seed=1, name="ir", metadata={"image_file": {"value_unit": "°C"}})
    other = replace(QUICK, style=style, palette="iron", scale_bar=True)
    _, (_, after) = again(
        picture(name="vis"), moving, replace(QUICK, fusion_model="average"), other
    )
    (layer,) = after.layers
    assert layer.rgb
    assert layer.data.shape == (40, 56, 3)
    assert layer.data.dtype == np.uint8
    assert after.result.fusion.parameters["unit"] == "°C"


def test_a_scale_bar_needs_a_unit():
    other = replace(QUICK, style="msx", scale_bar=True)
    with pytest.raises(ValueError, match="scale_bar: the unit of the infrared values is unknown"):
        again(picture(name="vis"), picture(seed=1, name="ir"), other)


def test_all_planes_of_a_stack(registered_once):
    first = replace(QUICK, planes="one", fusion_model="average")
    fixed, moving = picture((3, 40, 56), name="vis"), picture((3, 40, 56), 1, name="ir")
    _, (_, after) = again(fixed, moving, first, replace(first, fusion_model="maximum"))
    for plane in range(3):
        expected = np.maximum(fixed.data[plane], moving.data[plane])
        assert np.array_equal(after.result.fused[plane], expected)


def test_sliders_are_previewed_on_the_shown_plane():
    first = replace(QUICK, fusion_model="average")
    fixed, moving = picture(name="vis"), picture(seed=1, name="ir")
    request, (outcome,) = again(fixed, moving, first)
    preview = slider_preview(
        request, outcome.result, progress=lambda *_: None, cancel=threading.Event()
    )
    options = {"mask": np.ones((40, 56)), "model": "average", "device": "cpu", "infrared": 0.9}
    expected = fuse(fixed.data, moving.data, **options).fused
    assert np.array_equal(preview.picture(infrared=0.9), expected)
