"""Where pixels lie in physical space, and the conversion of units."""

from __future__ import annotations

import numpy as np
import pytest

from napari_busref.images.io import ImageFile
from napari_busref.transforms.formats.grid import METRES, ImageGrid, unit_name
from napari_busref.transforms.formats.physical import (
    affine_from_physical,
    affine_to_physical,
    from_positions,
    positions,
)
from napari_busref.transforms.transform import Transform

TURNED = ((0.8, -0.6), (0.6, 0.8))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("um", "micrometer"),
        ("µm", "micrometer"),
        ("micrometre", "micrometer"),
        ("mm", "millimeter"),
        (None, "pixel"),
        ("px", "pixel"),
        ("degree", "degree"),
    ],
)
def test_names_of_units(given, name):
    assert unit_name(given) == name


def test_matrix_is_origin_direction_and_spacing():
    grid = ImageGrid((4, 6), (2.0, 3.0), (10.0, 20.0), TURNED, "mm")
    np.testing.assert_allclose(
        grid.matrix @ (1, 2, 1), (10 + 0.8 * 2 - 0.6 * 6, 20 + 0.6 * 2 + 0.8 * 6, 1)
    )
    again = ImageGrid.from_matrix((4, 6), grid.matrix, "mm")
    np.testing.assert_allclose(again.matrix, grid.matrix)
    assert (again.shape, again.unit) == ((4, 6), "millimeter")
    assert grid.is_rectangular and not grid.is_upright
    assert not ImageGrid.from_matrix((4, 6), [[1, 0.2, 0], [0, 1, 0]]).is_rectangular


def test_units_are_converted():
    grid = ImageGrid((4, 6), (0.5, 0.25), (100.0, 0.0), unit="µm")
    assert grid.to("mm") == ImageGrid((4, 6), (0.0005, 0.00025), (0.1, 0.0), unit="mm")
    assert grid.to("inch").to("um").spacing == pytest.approx(grid.spacing, rel=1e-12)
    assert grid.to("micron") is grid
    with pytest.raises(ValueError, match="cannot convert pixel to mm"):
        ImageGrid((4, 6)).to("mm")
    with pytest.raises(ValueError, match="cannot convert micrometer to degree"):
        grid.to("degree")


def test_lengths_agree_with_pint():
    pint = pytest.importorskip("pint")
    registry = pint.UnitRegistry()
    for name, metres in METRES.items():
        assert registry(name).to("meter").magnitude == pytest.approx(metres, rel=1e-12)


def test_dictionaries_hold_everything():
    grid = ImageGrid((4, 6), (2.0, 3.0), (10.0, 20.0), TURNED, "mm")
    assert ImageGrid.from_dict(grid.as_dict()) == grid
    stored = grid.as_dict()
    del stored["origin"]
    with pytest.raises(ValueError, match=r"not complete.*origin"):
        ImageGrid.from_dict(stored)


def test_grid_of_an_image_file():
    pixels = np.zeros((4, 6, 3), np.uint8)
    known = ImageFile(pixels, {"spacing": (0.5, 0.25), "unit": "cm"})
    assert ImageGrid.from_image(known) == ImageGrid((4, 6), (0.5, 0.25), unit="centimeter")
    assert ImageGrid.from_image(ImageFile(pixels)) == ImageGrid((4, 6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (0, 3)}, "shape: got"),
        ({"spacing": (1.0, 0.0)}, "two positive"),
        ({"spacing": (1.0, np.inf)}, "finite"),
        ({"origin": (1.0,)}, "origin: got"),
        ({"origin": ("a", "b")}, "origin: need numbers"),
        ({"direction": ((1.0, 1.0), (1.0, 1.0))}, "cannot be inverted"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ImageGrid(**{"shape": (4, 6), **options})


def test_physical_affine_and_back():
    transform = Transform(
        [[0.5, 0.1, 3], [-0.1, 0.6, -2], [0, 0, 1]], fixed_shape=(20, 30), moving_shape=(12, 18)
    )
    fixed = ImageGrid((20, 30), (0.5, 0.25), (7.0, -3.0), TURNED)
    moving = ImageGrid((12, 18), (1.0, 2.0), (4.0, 5.0))
    matrix = affine_to_physical(transform, fixed, moving)
    np.testing.assert_allclose(
        matrix @ fixed.matrix @ (3, 4, 1),
        moving.matrix @ [*transform.points([3, 4]), 1],
    )
    back = affine_from_physical(matrix, fixed, moving)
    np.testing.assert_allclose(back, transform.affine, atol=1e-12)


def test_positions_make_the_transform_they_came_from():
    rng = np.random.default_rng(0)
    field = rng.normal(size=(2, 20, 30)).astype(np.float32)
    affine = [[0.5, 0.1, 3], [-0.1, 0.6, -2], [0, 0, 1]]
    transform = Transform(affine, field, fixed_shape=(20, 30), moving_shape=(12, 18))
    fixed, moving = (
        ImageGrid((20, 30), (2, 2)),
        ImageGrid((12, 18), (3.0, 4.0), (1.0, 2.0), TURNED),
    )
    pixels = np.moveaxis(np.mgrid[:20, :30], 0, -1)
    mapped = transform.points(pixels) @ moving.matrix[:2, :2].T + moving.matrix[:2, 2]
    found = from_positions(np.moveaxis(mapped, -1, 0), fixed, moving)
    np.testing.assert_allclose(found.points(pixels), transform.points(pixels), atol=1e-5)
    np.testing.assert_allclose(positions(fixed)[:, 3, 4], (6, 8))
