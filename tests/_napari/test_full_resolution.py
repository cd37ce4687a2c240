"""Refining a result at full resolution, without a window; small tiles suffice here."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial

import dask.array as da
import numpy as np
import pytest

pytest.importorskip("napari")

from napari.components import ViewerModel
from napari.layers import Image

from napari_busref._napari.layers import reading
from napari_busref._napari.register import full_resolution, fuse_again, stack_fusion
from napari_busref._napari.register.full_resolution import RefineRequest, can_refine, refine
from napari_busref._napari.register.run import make_request
from napari_busref._napari.register.settings import Settings
from napari_busref._napari.register.stacks import register_stack
from napari_busref.data.samples import thermal_scene
from napari_busref.registration import large, tile_levels
from napari_busref.runtime.progress import Cancelled
from napari_busref.transforms.grids import Grid

SETTINGS = Settings(search="none", device="cpu", fusion_model="average")
PIXELS = 100 * 130
VIEW = np.s_[40:150, 40:150]


@pytest.fixture(scope="module")
def registered():
    """A pair of pyramids that was registered at a quarter of the resolution, and the truth."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stack_fusion, "FUSION_BUDGET", 1000)
        sample = thermal_scene(0, (400, 520))
        pair = sample.fixed, sample.truth.apply(sample.moving, cval=0)
        viewer = ViewerModel()
        layers = []
        for name, data in zip(("vis", "ir"), pair, strict=True):
            levels = [da.from_array(data[::step, ::step]) for step in (1, 2, 4)]
            colour = data.ndim == 3
            layer = Image(levels, name=name, rgb=colour, multiscale=True, contrast_limits=(0, 255))
            layers.append(viewer.add_layer(layer))
        request = make_request(viewer, *layers, SETTINGS)
        options = {"initial": None, "fusion": request.fusion(), "pixels": PIXELS}
        result = register_stack(
            request.fixed, request.moving, **options, **SETTINGS.registration()
        )
    return request, result, pair


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(tile_levels, "SIDE", 128)
    monkeypatch.setattr(tile_levels, "_TOGETHER", 4)
    monkeypatch.setattr(large, "_WHOLE", 100)
    monkeypatch.setattr(stack_fusion, "FUSION_BUDGET", 1000)
    for module in (full_resolution, fuse_again):
        choose = partial(reading.choose_reading, pixels=PIXELS)
        monkeypatch.setattr(module, "choose_reading", choose)


def refined(registered, cancel=None, said=None, stop=99):
    request, result, _ = registered
    outcomes, cancel = [], cancel or threading.Event()

    def on_result(outcome):
        outcomes.append(outcome)
        if len(outcomes) == stop:
            cancel.set()

    progress = (lambda *_: None) if said is None else (lambda *report: said.append(report))
    whole = RefineRequest(request, result, result.pairs.shown, VIEW)
    try:
        return outcomes, refine(whole, on_result, progress=progress, cancel=cancel)
    except Cancelled:
        return outcomes, None


def test_the_part_in_view_comes_first_and_all_layers_follow(registered, small):
    _, result, (_, moving) = registered
    assert can_refine(result)
    said = []
    outcomes, last = refined(registered, said=said)
    assert outcomes[-1] is last and len(outcomes) > 3
    grid = np.stack(np.mgrid[60:140:20, 60:140:20], -1)
    errors = [
        np.linalg.norm(one.transform.points(grid) - grid, axis=-1).mean()
        for one in (result, outcomes[0].result, last.result)
    ]
    assert errors[1] < errors[0] and errors[2] < errors[1] + 0.2
    for outcome in (outcomes[0], last):
        layers = {layer.metadata["napari-busref"]["role"]: layer for layer in outcome.layers}
        assert set(layers) == {"warped", "mask", "fused", "displacement"}
        found = outcome.result.transform
        assert all(one.metadata["napari-busref"]["transform"] is found for one in layers.values())
        window = np.s_[100:164, 200:264]
        warped = np.asarray(layers["warped"].data[0][window])
        assert np.abs(warped.astype(int) - found.apply(moving, window=window)).max() <= 1
    assert outcomes[0].result.fusion is not result.fusion
    assert not np.array_equal(outcomes[0].result.fused, result.fused)
    assert [one["step"] for one in last.result.registration.parameters["levels"]] == [2, 1] * 2
    fractions = [fraction for _, fraction in said]
    assert fractions == sorted(fractions)


def test_cancel_keeps_what_was_done(registered, small):
    outcomes, last = refined(registered, stop=2)
    assert last is None and len(outcomes) == 2
    assert outcomes[1].result.transform != outcomes[0].result.transform


def test_only_a_field_of_a_coarser_level_is_refined(registered):
    request, result, _ = registered
    assert can_refine(replace(result, moving_grid=Grid(request.moving.shape)))
    lost = replace(result, quality=replace(result.quality, status="not registered"))
    affine = replace(result.registration, parameters={"refine": "affine"})
    full = replace(result, fixed_grid=Grid(request.fixed.shape))
    for other in (lost, replace(result, registration=affine), full):
        assert not can_refine(other)
