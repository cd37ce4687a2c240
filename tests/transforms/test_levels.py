"""Grids of other resolution over one image, and transforms converted between them."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from napari_busref.transforms.formats.files import TransformFile, read_transform, write_transform
from napari_busref.transforms.formats.grid import ImageGrid
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.levels import from_levels, onto_levels
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
    fixed = Grid((40, 60))
    transform = Transform(
        TURN, smooth(fixed.shape) if elastic else None, fixed_shape=(40, 60), moving_shape=(80, 90)
    )
    to_fixed, to_moving = Grid((10, 30), (4.0, 2.0)), Grid((40, 30), (2.0, 3.0))
    coarse = onto_levels(transform, to_fixed, to_moving)
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
    part = onto_levels(transform, grid, Grid((50, 50)), window)
    assert part.fixed_shape == (12, 30)
    index = np.indices((12, 30)).reshape(2, -1).T
    np.testing.assert_allclose(
        part.points(index), transform.points(index + np.array([7, 30])), atol=1e-4
    )


def test_a_transform_between_levels_speaks_of_the_images():
    coarse = Transform(np.eye(3), smooth((20, 30)), fixed_shape=(20, 30), moving_shape=(20, 20))
    levels = Grid((20, 30), (4.0, 4.0)), Grid((20, 20), (2.0, 2.0))
    full = from_levels(coarse, *levels, (80, 120), (40, 40))
    assert (full.fixed_shape, full.moving_shape, full.spacing) == ((80, 120), (40, 40), (4, 4))
    points = np.array([[10.0, 20.0], [41.0, 77.0]])
    there = coarse.points((points - 1.5) / 4) * 2 + 0.5
    np.testing.assert_allclose(full.points(points), there, atol=1e-4)
    back = onto_levels(full, *levels)
    np.testing.assert_allclose(back.displacement, coarse.displacement, rtol=1e-6)


def test_a_transform_at_full_resolution_stays_what_it_is():
    transform = Transform(TURN, smooth((9, 9)), fixed_shape=(9, 9), moving_shape=(9, 9))
    full = Grid((9, 9))
    assert from_levels(transform, full, full, (9, 9), (9, 9)) is transform
    assert onto_levels(transform, full, full) is transform


def test_files_with_coarser_grids_are_read_as_a_spacing(tmp_path):
    """Before format version 3, a field on coarser pixels was saved with the grids of both."""
    coarse = Transform(TURN, smooth((20, 30)), fixed_shape=(20, 30), moving_shape=(20, 20))
    full = {"fixed": ImageGrid((80, 120), unit="mm"), "moving": ImageGrid((40, 40), unit="mm")}
    own = {
        "fixed": ImageGrid((20, 30), (4, 4), (1.5, 1.5), unit="mm"),
        "moving": ImageGrid((20, 20), (2, 2), (0.5, 0.5), unit="mm"),
    }
    known = {f"{name}_full": grid.as_dict() for name, grid in full.items()}
    plane = {(1,): TransformFile(coarse, **own)}
    path = tmp_path / "a.busref.h5"
    write_transform(path, coarse, **own, metadata=known, planes=plane)
    with h5py.File(path) as file:
        assert file.attrs["format_version"] == 2
    found = read_transform(path)
    levels = Grid((20, 30), (4.0, 4.0)), Grid((20, 20), (2.0, 2.0))
    assert found.transform == from_levels(coarse, *levels, (80, 120), (40, 40))
    assert (found.fixed, found.moving) == (full["fixed"], full["moving"])
    assert not found.metadata
    assert found.planes[1,].transform == found.transform
    nearer = ImageGrid((80, 120), (0.5, 0.5), unit="mm")
    again = read_transform(path, fixed=nearer)
    assert again.fixed == again.planes[1,].fixed == nearer
