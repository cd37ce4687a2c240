"""Grids of other resolution over one image, and transforms converted between them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")

from napari_busref._napari.layers import grids
from napari_busref._napari.layers.grids import Grid, Rescaled, regrid
from napari_busref.transforms.transform import Transform

TURN = [[0.9, 0.2, 3.0], [-0.1, 1.1, -2.0], [0, 0, 1]]


def smooth(shape, seed=0):
    """A displacement linear in row and column, which bilinear sampling reproduces exactly."""
    rows, cols = np.indices(shape) / 10
    return np.stack([0.3 * rows - 0.1 * cols + seed, 0.2 * cols + 0.1 * rows]).astype(np.float32)


def test_a_pixel_of_a_coarser_grid_is_the_middle_of_those_it_covers():
    grid = Grid((5, 8), (4.0, 2.0))
    np.testing.assert_allclose(grid.matrix @ [0, 0, 1], [1.5, 0.5, 1])
    assert Grid.over((10, 16), (40, 32)) == Grid((10, 16), (4.0, 2.0))
    assert Grid((10, 10)).full
    assert not grid.full


def test_the_coarser_grid_keeps_to_the_budget_and_covers_the_picture():
    grid = Grid((101, 203))
    assert grid.coarser(101 * 203) == grid
    for pixels in (5000, 400, 1):
        coarse = grid.coarser(pixels)
        assert np.prod(coarse.shape) <= pixels
        assert (np.multiply(coarse.shape, coarse.step) >= grid.shape).all()


@pytest.mark.parametrize("elastic", [False, True])
def test_the_same_points_go_to_the_same_places_whatever_the_grid(elastic):
    fixed, moving = Grid((40, 60)), Grid((80, 90))
    transform = Transform(
        TURN, smooth(fixed.shape) if elastic else None, fixed_shape=(40, 60), moving_shape=(80, 90)
    )
    to_fixed, to_moving = Grid((10, 30), (4.0, 2.0)), Grid((40, 30), (2.0, 3.0))
    coarse = regrid(transform, fixed, moving, to_fixed, to_moving)
    assert (coarse.fixed_shape, coarse.moving_shape) == ((10, 30), (40, 30))
    points = np.array([[2.0, 3.0], [5.0, 20.0], [8.0, 11.0]])
    start = points * to_fixed.step + to_fixed.matrix[:2, 2]
    end = (transform.points(start) - to_moving.matrix[:2, 2]) / to_moving.step
    np.testing.assert_allclose(coarse.points(points), end, atol=1e-4)


def test_a_window_is_the_part_of_the_whole():
    grid = Grid((40, 60))
    rng = np.random.default_rng(0)
    transform = Transform(
        TURN,
        rng.random((2, 40, 60)).astype(np.float32),
        fixed_shape=(40, 60),
        moving_shape=(50, 50),
    )
    window = (slice(7, 19), slice(30, 60))
    part = regrid(transform, grid, Grid((50, 50)), grid, Grid((50, 50)), window)
    assert part.fixed_shape == (12, 30)
    index = np.indices((12, 30)).reshape(2, -1).T
    np.testing.assert_allclose(
        part.points(index), transform.points(index + np.array([7, 30])), atol=1e-4
    )


def test_a_rescaled_transform_speaks_of_full_resolution():
    coarse = Transform(np.eye(3), smooth((20, 30)), fixed_shape=(20, 30), moving_shape=(20, 20))
    rescaled = Rescaled(
        coarse, Grid((20, 30), (4.0, 4.0)), Grid((20, 20), (2.0, 2.0)), (80, 120), (40, 40)
    )
    full = rescaled.full()
    assert (full.fixed_shape, full.moving_shape) == ((80, 120), (40, 40))
    points = np.array([[10.0, 20.0], [41.0, 77.0]])
    np.testing.assert_allclose(rescaled.points(points), full.points(points), atol=1e-4)
    there = rescaled.points(points)
    np.testing.assert_allclose(rescaled.points(there, inverse=True), points, atol=1e-3)


def test_a_transform_at_full_resolution_stays_what_it_is():
    transform = Transform(TURN, smooth((9, 9)), fixed_shape=(9, 9), moving_shape=(9, 9))
    assert Rescaled.of(transform).full() is transform


def test_a_stored_field_is_small_and_close():
    transform = Transform(TURN, smooth((64, 64)), fixed_shape=(64, 64), moving_shape=(64, 64))
    stored = Rescaled.of(transform).stored(300)
    assert stored.transform.displacement[0].size <= 300
    points = np.array([[20.0, 33.0], [50.5, 12.25]])
    np.testing.assert_allclose(stored.points(points), transform.points(points), atol=1e-3)


def test_a_field_that_would_not_fit_is_not_made(monkeypatch):
    monkeypatch.setattr(grids, "FIELD_BUDGET", 1000)
    shapes = (400, 400), (400, 400)
    coarse = Transform(np.eye(3), smooth((20, 20)), fixed_shape=(20, 20), moving_shape=(400, 400))
    rescaled = Rescaled(coarse, Grid((20, 20), (20.0, 20.0)), Grid((400, 400)), *shapes)
    assert not rescaled.fits
    with pytest.raises(ValueError, match="more than 1000 pixels"):
        rescaled.full()
    affine = Rescaled(
        Transform(np.eye(3), fixed_shape=(20, 20), moving_shape=(400, 400)),
        rescaled.fixed,
        rescaled.moving,
        *shapes,
    )
    np.testing.assert_allclose(affine.full().points([[19.0, 0.0]]), [[0.475, -0.475]])
