"""Transforms whose displacement has fewer values than the image has pixels, and windows."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from scipy import ndimage

from napari_busref.transforms import grids
from napari_busref.transforms.formats.files import read_transform, write_transform
from napari_busref.transforms.formats.grid import ImageGrid
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.transform import Transform

FIXED, MOVING = (61, 90), (80, 70)
TURN = [[0.9, 0.2, 3.0], [-0.1, 1.1, -2.0], [0, 0, 1]]
SPACING = (4.0, 7.5)


def waves(rows, cols):
    return np.stack([2 * np.sin(rows / 15) + cols / 60, np.cos(cols / 18) - rows / 50])


def made(spacing):
    where = Grid.covering(FIXED, spacing).positions()
    field = waves(*np.broadcast_arrays(*where))
    return Transform(TURN, field, fixed_shape=FIXED, moving_shape=MOVING, spacing=spacing)


SPACED = made(SPACING)
BOTH = pytest.mark.parametrize("transform", [made((1, 1)), SPACED], ids=["dense", "spaced"])


class Recorder:
    """An array in a file: it counts the pixels that are read."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, 0

    def __getitem__(self, window):
        part = self.array[window]
        self.read += part.size
        return part


def test_a_value_stands_in_the_middle_of_its_pixels():
    field = np.zeros((2, 2, 2))
    field[0, 0] = 3.0
    transform = Transform(
        displacement=field, fixed_shape=(8, 6), moving_shape=(8, 6), spacing=(4, 3)
    )
    assert transform.spacing == (4.0, 3.0)
    # values stand at rows 1.5 and 5.5; between them bilinear, beyond them constant
    rows = np.array([0, 1.5, 3.5, 5.5, 7])
    found = transform.points(np.stack([rows, np.zeros(5)], 1))[:, 0] - rows
    np.testing.assert_allclose(found, [3, 3, 1.5, 0, 0])


def test_the_last_value_may_stand_beyond_the_image():
    transform = Transform(
        displacement=np.zeros((2, 3, 1)), fixed_shape=(9, 4), moving_shape=(9, 4), spacing=4
    )
    assert transform.flow().shape == (2, 9, 4)


def test_points_and_flow_agree():
    pixels = np.indices(FIXED).reshape(2, -1).T
    flow = SPACED.flow().reshape(2, -1).T
    np.testing.assert_allclose(SPACED.points(pixels), pixels + flow, atol=1e-4)


@BOTH
def test_a_window_is_the_part_of_the_whole_to_the_last_bit(transform):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60000, (*MOVING, 3)).astype(np.uint16)
    labels = rng.integers(0, 2**62, MOVING)
    valid = rng.random(MOVING) > 0.2
    for window in (np.s_[7:31, 40:90], np.s_[0:61, 3:4], np.s_[50:, :20]):
        assert (transform.flow(window) == transform.flow()[:, *window]).all()
        assert (transform.mask(valid, window) == transform.mask(valid)[window]).all()
        jacobian = transform.jacobian_determinant
        assert (jacobian(window) == jacobian()[window]).all()
        assert (transform.apply(image, window=window) == transform.apply(image)[window]).all()
        found = transform.apply(labels, 0, window=window)
        assert (found == transform.apply(labels, 0)[window]).all()
        masked = np.ma.MaskedArray(labels, ~valid)
        found = transform.apply(masked, window=window)
        np.testing.assert_array_equal(found.mask, transform.apply(masked).mask[window])
        smooth = image[..., 0] / 60000
        found = transform.apply(smooth, 5, window=window)
        np.testing.assert_allclose(found, transform.apply(smooth, 5)[window], atol=1e-6)


def test_a_window_reads_its_part_only():
    image = Recorder(np.random.default_rng(0).random(MOVING))
    window = np.s_[20:30, 30:40]
    found = SPACED.apply(image, window=window)
    assert 100 < image.read < 300
    np.testing.assert_array_equal(found, SPACED.apply(image.array)[window])
    rows, cols = SPACED.source_window(window)
    source = SPACED.points(np.indices(FIXED).transpose(1, 2, 0)[window])
    assert (source >= [rows.start + 1, cols.start + 1]).all()
    assert (source <= [rows.stop - 2, cols.stop - 2]).all()


@pytest.mark.parametrize("spacing", [(1, 1), SPACING])
@pytest.mark.parametrize("order", [0, 1])
def test_the_transform_of_a_window_reads_its_part_only(tmp_path, spacing, order):
    window = np.s_[20:30, 30:40]
    file = made(spacing).save(tmp_path / "pair.busref.h5")
    part = Transform.load(file, window=window)
    image = Recorder(np.random.default_rng(0).random(MOVING))
    found = part.apply(image, order)
    assert image.read < 300
    np.testing.assert_array_equal(found, part.apply(image.array, order))


def test_missing_pixels_in_a_file_stay_missing():
    rng = np.random.default_rng(0)
    image = np.ma.MaskedArray(rng.integers(0, 99, MOVING), rng.random(MOVING) > 0.95)
    found = SPACED.apply(Recorder(image), window=np.s_[20:30, 30:40])
    whole = SPACED.apply(image)[20:30, 30:40]
    assert 0 < found.mask.sum() < 50
    np.testing.assert_array_equal(found.mask, whole.mask)
    np.testing.assert_array_equal(found.compressed(), whole.compressed())


def test_a_window_without_content_is_empty():
    away = Transform([[1, 0, 900], [0, 1, 0], [0, 0, 1]], fixed_shape=FIXED, moving_shape=MOVING)
    assert away.source_window(np.s_[:5, :5]) is None
    assert (away.apply(Recorder(np.ones(MOVING)), cval=7, window=np.s_[:5, :5]) == 7).all()


def test_the_change_of_area_of_a_linear_field_is_exact():
    rows, cols = np.broadcast_arrays(*Grid.covering((64, 64), (8, 8)).positions())
    field = np.stack([0.1 * rows, 0.02 * rows - 0.2 * cols])
    transform = Transform(TURN, field, fixed_shape=(64, 64), moving_shape=MOVING, spacing=8)
    expected = np.linalg.det(np.array(TURN)[:2, :2]) * 1.1 * 0.8
    np.testing.assert_allclose(transform.jacobian_determinant(), expected, rtol=1e-5)


def test_there_and_back():
    back = SPACED.inverse()
    assert (back.fixed_shape, back.moving_shape) == (MOVING, FIXED)
    assert back.displacement[0].size < np.prod(MOVING) / 20
    inner = np.stack(np.meshgrid(np.linspace(20, 40, 9), np.linspace(25, 65, 9)), -1)
    np.testing.assert_allclose(back.points(SPACED.points(inner)), inner, atol=0.1)
    round_trip = SPACED.compose(back)
    assert round_trip.spacing == SPACING
    np.testing.assert_allclose(round_trip.points(inner), inner, atol=0.2)
    exact = SPACED.points(SPACED.points(inner), inverse=True)
    np.testing.assert_allclose(exact, inner, atol=1e-4)


def test_composition_takes_the_finer_spacing():
    double = Transform(np.diag([2.0, 2.0, 1]), fixed_shape=(40, 50), moving_shape=FIXED)
    assert double.compose(SPACED).spacing == (2.0, 3.75)
    assert made((1, 1)).compose(SPACED.inverse()).spacing == (1, 1)
    dense = SPACED.with_spacing(1)
    np.testing.assert_allclose(dense.flow(), SPACED.flow(), atol=1e-4)
    assert dense.with_spacing(SPACING) != dense
    assert SPACED.with_spacing(SPACING) is SPACED


def test_files_hold_the_spacing(tmp_path):
    path = SPACED.save(tmp_path / "a.busref.h5")
    assert Transform.load(path) == SPACED
    with h5py.File(path) as file:
        assert file.attrs["format_version"] == 3
    dense = made((1, 1))
    path = write_transform(tmp_path / "b.busref.h5", dense, planes={(0,): file_of(SPACED)})
    read = read_transform(path)
    assert read.transform == dense
    assert read.planes[0,].transform == SPACED
    with h5py.File(dense.save(tmp_path / "c.busref.h5")) as file:
        assert file.attrs["format_version"] == 1
        assert "spacing" not in file.attrs


def file_of(transform):
    from napari_busref.transforms.formats.files import TransformFile

    return TransformFile(transform, ImageGrid(FIXED), ImageGrid(MOVING))


def test_a_whole_slide_is_a_small_file(tmp_path):
    shape = (20_000, 20_000)
    rng = np.random.default_rng(0)
    field = ndimage.gaussian_filter(rng.normal(size=(2, 625, 625)), (0, 3, 3)) * 100
    transform = Transform(displacement=field, fixed_shape=shape, moving_shape=shape, spacing=32)
    path = transform.save(tmp_path / "a.busref.h5")
    assert path.stat().st_size < 10e6
    window = np.s_[9000:9100, 19900:20000]
    assert (Transform.load(path).flow(window) == transform.flow(window)).all()


GRIDS = {
    "upright": ImageGrid(FIXED, (0.5, 0.4), (10, -3), unit="mm"),
    "turned": ImageGrid(FIXED, (0.5, 0.4), (10, -3), ((0.8, -0.6), (0.6, 0.8)), "mm"),
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("suffix", [".tfm", ".h5", ".ome.zarr", ".nrrd"])
def test_other_programs_get_the_same_map(tmp_path, suffix, grid):
    pytest.importorskip("zarr" if suffix == ".ome.zarr" else "SimpleITK")
    images = {"fixed": GRIDS[grid], "moving": ImageGrid(MOVING, (0.3, 0.3), unit="mm")}
    path = write_transform(tmp_path / f"a{suffix}", SPACED, **images)
    found = read_transform(path, **images).transform
    np.testing.assert_allclose(found.flow(), SPACED.flow(), atol=1e-3)


def test_a_format_with_a_value_at_every_pixel_has_a_limit(tmp_path, monkeypatch):
    pytest.importorskip("SimpleITK")
    monkeypatch.setattr(grids, "FIELD_BUDGET", 1000)
    with pytest.raises(ValueError, match=r"a\.nrrd needs .* 61 x 90 px; \.busref\.h5, \.tfm"):
        write_transform(tmp_path / "a.nrrd", SPACED)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spacing", [(1, 1), SPACING, (40, 50)])
def test_a_window_is_read_as_the_transform_of_an_image_of_its_own(tmp_path, spacing):
    whole = made(spacing)
    file = whole.save(tmp_path / "pair.busref.h5")
    for window in (
        np.s_[5:30, 11:12],
        np.s_[0:1, 0:1],
        np.s_[:, -7:],
        np.s_[FIXED[0] - 1 :, FIXED[1] - 1 :],
        np.s_[:, :],
    ):
        part = Transform.load(file, window=window)
        rows, cols = (range(size)[one] for size, one in zip(FIXED, window, strict=True))
        assert part.fixed_shape == (len(rows), len(cols)) and part.moving_shape == MOVING
        places = np.moveaxis(np.indices(part.fixed_shape), 0, -1)
        there = places + np.array([rows.start, cols.start])
        np.testing.assert_allclose(part.points(places), whole.points(there), atol=1e-4)
    with pytest.raises(ValueError, match=r"window: got .*, need a slice of rows"):
        Transform.load(file, window=np.s_[5:5, :])


def test_a_window_of_a_dense_file_is_read_within_a_budget_for_the_window(tmp_path):
    shape, window = (1500, 1400), np.s_[700:800, 300:450]
    field = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    transform = Transform(displacement=field, fixed_shape=shape, moving_shape=shape)
    file = transform.save(tmp_path / "dense.busref.h5")
    budget = field.nbytes / 8 / 2**30  # GiB
    with pytest.raises(ValueError, match="memory_limit"):
        Transform.load(file, memory_limit=budget)
    part = Transform.load(file, window=window, memory_limit=budget)
    np.testing.assert_allclose(part.displacement, field[(slice(None), *window)], atol=1e-5)


@pytest.mark.parametrize("spacing", [0.5, (2, np.nan), (1, 2, 3), "wide", None])
def test_a_spacing_is_at_least_a_pixel(spacing):
    with pytest.raises(ValueError, match="spacing: got"):
        Transform(fixed_shape=FIXED, moving_shape=MOVING, spacing=spacing)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"need \(2, 16, 12\) .*every 4 rows and 7.5 columns"):
        Transform(
            displacement=np.zeros((2, *FIXED)),
            fixed_shape=FIXED,
            moving_shape=MOVING,
            spacing=SPACING,
        )
    for window in (np.s_[5:5, :], np.s_[:], np.s_[::2, :], (3, 4), np.s_[70:80, :]):
        with pytest.raises(ValueError, match="window: got"):
            SPACED.flow(window)
