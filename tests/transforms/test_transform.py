from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
from scipy import ndimage

from napari_busref.images import blocks
from napari_busref.transforms import hdf5
from napari_busref.transforms.transform import Transform, read_metadata


def elastic(shape, seed=0, amplitude=0.04, smooth=0.08):
    """Smooth random displacement, its largest vector `amplitude` of the shorter side."""
    rng = np.random.default_rng(seed)
    side = min(shape)
    field = np.stack(
        [ndimage.gaussian_filter(rng.standard_normal(shape), smooth * side) for _ in range(2)]
    )
    return (field * amplitude * side / np.hypot(*field).max()).astype(np.float32)


def affine(angle=6.0, scale=1.07, shear=0.05, shift=(4.0, -3.0)):
    angle = np.deg2rad(angle)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.eye(3)
    matrix[:2, :2] = scale * turn @ [[1, shear], [0, 1]]
    matrix[:2, 2] = shift
    return matrix


def texture(shape, seed=0):
    return ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)


def interior(shape, margin=0.15):
    rows, cols = (np.linspace(margin * n, (1 - margin) * n, 23) for n in shape)
    return np.stack(np.meshgrid(rows, cols, indexing="ij"), -1)


WARP = Transform(affine(), elastic((120, 150)), fixed_shape=(120, 150), moving_shape=(110, 170))


def test_maps_by_displacement_then_affine():
    displacement = np.zeros((2, 8, 9), np.float32)
    displacement[0, 2, 3] = 1.5
    transform = Transform(affine(), displacement, fixed_shape=(8, 9), moving_shape=(8, 9))
    expected = affine() @ [2 + 1.5, 3, 1]
    np.testing.assert_allclose(transform.points([2, 3]), expected[:2])
    # halfway to the neighbour half of the displacement is left
    np.testing.assert_allclose(transform.points([2, 3.5]), (affine() @ [2.75, 3.5, 1])[:2])


def test_displacement_continues_outside():
    displacement = np.full((2, 8, 8), 2.0, np.float32)
    transform = Transform(None or np.eye(3), displacement, fixed_shape=(8, 8), moving_shape=(8, 8))
    np.testing.assert_allclose(transform.points([[-5, -5], [30, 3]]), [[-3, -3], [32, 5]])


def test_identity_changes_nothing():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    transform = Transform.identity((20, 30))
    assert np.array_equal(transform.apply(image), image)
    assert transform.mask().all()
    assert not transform.flow().any()
    assert transform.flow().dtype == np.float32


def test_equal_field_of_view():
    assert Transform.equal_field_of_view((30, 40), (30, 40)) == Transform.identity((30, 40))
    transform = Transform.equal_field_of_view((100, 200), (50, 100))
    # the corners of the pixels, not their centres, agree
    np.testing.assert_allclose(
        transform.points([[-0.5, -0.5], [99.5, 199.5]]), [[-0.5, -0.5], [49.5, 99.5]]
    )
    wide = Transform.equal_field_of_view((100, 100), (50, 100))
    np.testing.assert_allclose(wide.points([49.5, 49.5]), [24.5, 49.5])
    assert wide.affine[0, 0] == wide.affine[1, 1] == pytest.approx(np.sqrt(0.5))


def test_apply_is_map_coordinates_at_the_flow():
    moving = texture((110, 170)).astype(np.float32)
    grid = np.mgrid[:120, :150]
    expected = ndimage.map_coordinates(moving, grid + WARP.flow(), order=1, mode="nearest")
    mask = WARP.mask()
    assert 0.3 < mask.mean() < 1
    warped = WARP.apply(moving)
    np.testing.assert_allclose(warped[mask], expected[mask], atol=1e-4)
    assert np.isnan(warped[~mask]).all()


def test_blocks_make_no_difference(monkeypatch):
    image = texture((110, 170))
    valid = image > -0.2
    displaced, mask, flow = WARP.apply(image, 3), WARP.mask(valid), WARP.flow()
    inverse, composed = WARP.inverse(), WARP.compose(WARP.inverse())
    monkeypatch.setattr(blocks, "_BLOCK", 500)
    np.testing.assert_array_equal(WARP.apply(image, 3), displaced)
    assert np.array_equal(WARP.mask(valid), mask)
    assert np.array_equal(WARP.flow(), flow)
    assert WARP.inverse() == inverse
    assert WARP.compose(inverse) == composed


@pytest.mark.parametrize("order", [1, 2, 3])
def test_warp_and_warp_back(order):
    shape = (160, 160)
    image = ndimage.gaussian_filter(texture(shape), 3)
    warp = Transform(affine(shift=(-8, 12)), elastic(shape), fixed_shape=shape, moving_shape=shape)
    once = warp.apply(image, order)
    back = warp.inverse().apply(once, order)
    # a spline reaches beyond the four neighbours, into the empty border
    seen = warp.inverse().mask(ndimage.binary_erosion(warp.mask(), iterations=8))
    assert seen.mean() > 0.5
    assert np.abs(back - image)[seen].max() < (0.1 if order == 1 else 0.02) * np.ptp(image)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [192, 256])
def test_round_trips(seed, size):
    shape = (size, size + 40)
    warp = Transform(affine(), elastic(shape, seed), fixed_shape=shape, moving_shape=shape)
    points = interior(shape)
    there = warp.points(points)
    assert np.abs(there - points).max() > 3
    np.testing.assert_allclose(warp.points(there, inverse=True), points, atol=1e-4)
    # as transforms: bilinear between the pixels
    loop = warp.compose(warp.inverse())
    np.testing.assert_allclose(loop.points(points), points, atol=0.01)
    np.testing.assert_allclose(warp.inverse().compose(warp).points(points), points, atol=0.01)


def test_inverse_of_an_affine_is_exact():
    transform = Transform(affine(), fixed_shape=(40, 50), moving_shape=(60, 70))
    inverse = transform.inverse()
    assert inverse.displacement is None
    assert (inverse.fixed_shape, inverse.moving_shape) == ((60, 70), (40, 50))
    np.testing.assert_allclose(inverse.affine @ affine(), np.eye(3), atol=1e-12)


def test_strong_but_fold_free_fields_are_inverted():
    col = np.arange(64, dtype=np.float32)
    displacement = np.zeros((2, 64, 64), np.float32)
    displacement[1] = 12 * np.sin(col / 5)  # slope up to +-2.4: stretches, and folds
    folded = Transform(np.eye(3), displacement, fixed_shape=(64, 64), moving_shape=(64, 64))
    assert folded.jacobian_determinant().min() < 0
    displacement[1] = np.cumsum(np.where(col % 20 < 10, 2.6, -0.9)) - 30
    steep = Transform(np.eye(3), displacement, fixed_shape=(64, 64), moving_shape=(64, 64))
    assert steep.jacobian_determinant().min() > 0
    points = np.random.default_rng(0).uniform(5, 58, (200, 2))
    np.testing.assert_allclose(steep.points(steep.points(points), inverse=True), points, atol=0.01)


def test_a_fold_without_an_inverse_is_refused():
    # columns in random order: no continuous way back
    rng = np.random.default_rng(0)
    displacement = rng.uniform(-30, 30, (2, 32, 32)).astype(np.float32)
    transform = Transform(np.eye(3), displacement, fixed_shape=(32, 32), moving_shape=(32, 32))
    with pytest.raises(ValueError, match="cannot be inverted"):
        transform.inverse()
    with pytest.raises(ValueError, match="cannot be inverted"):
        transform.points(np.mgrid[5:20, 5:20].reshape(2, -1).T, inverse=True)


@pytest.mark.parametrize("first_elastic", [False, True])
@pytest.mark.parametrize("second_elastic", [False, True])
def test_compose_is_one_after_the_other(first_elastic, second_elastic):
    first = Transform(
        affine(4, 0.6),
        elastic((100, 120)) if first_elastic else None,
        fixed_shape=(100, 120),
        moving_shape=(70, 80),
    )
    second = Transform(
        affine(-9, 1.3, 0.02, (-5, 2)),
        elastic((70, 80), 1) if second_elastic else None,
        fixed_shape=(70, 80),
        moving_shape=(90, 95),
    )
    both = first.compose(second)
    assert (both.fixed_shape, both.moving_shape) == ((100, 120), (90, 95))
    assert (both.displacement is None) == (not first_elastic and not second_elastic)
    pixels = np.moveaxis(np.mgrid[:100, :120], 0, -1).astype(float)
    expected = second.points(first.points(pixels))
    np.testing.assert_allclose(both.points(pixels), expected, atol=1e-4)
    if both.displacement is None:  # also between and far outside the pixels
        far = pixels * 3.7 - 50
        np.testing.assert_allclose(both.points(far), second.points(first.points(far)))


def test_compose_needs_the_same_grid():
    with pytest.raises(ValueError, match=r"starts on a grid of shape \(20, 20\)"):
        Transform.identity((20, 30)).compose(Transform.identity((20, 20)))
    with pytest.raises(TypeError, match="need a Transform"):
        Transform.identity((20, 30)).compose(np.eye(3))


@pytest.mark.parametrize(
    "dtype",
    ["bool", "u1", "i1", "<u2", ">u2", ">i4", "u8", "f2", "<f4", ">f4", ">f8", "g"],
)
@pytest.mark.parametrize("order", [0, 1, 3])
def test_any_dtype(dtype, order):
    values = texture((50, 60))
    values = (values - values.min()) / np.ptp(values)
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        image = values > 0.5
    elif dtype.kind in "iu":
        info = np.iinfo(dtype)
        image = np.clip(values * 1.4 - 0.2, 0, 1) * (float(info.max) - info.min) + info.min
        image = np.clip(image, info.min, np.nextafter(float(info.max), 0)).astype(dtype)
    else:
        image = values.astype(dtype)
    transform = Transform(affine(), fixed_shape=(50, 60), moving_shape=(50, 60))
    before = image.copy()
    warped = transform.apply(image, order)
    assert np.array_equal(image, before)
    assert warped.dtype == dtype.newbyteorder("=")
    assert warped.dtype.isnative
    mask = transform.mask()
    reference = transform.apply(image.astype(np.float64), order)[mask]
    got = warped[mask].astype(np.float64)
    if dtype.kind == "b":
        assert np.array_equal(warped[mask], reference >= 0.5)
    elif dtype.kind == "f":
        np.testing.assert_allclose(got, reference, atol=2e-3)
    else:
        limits = np.clip(reference, info.min, info.max)
        np.testing.assert_allclose(got, limits, rtol=1e-9, atol=0.51)


def test_labels_keep_their_values():
    labels = np.random.default_rng(0).integers(0, 2**62, (40, 40)) | 1  # beyond float64
    transform = Transform(affine(), elastic((40, 40)), fixed_shape=(40, 40), moving_shape=(40, 40))
    warped = transform.apply(labels, order=0)
    assert set(np.unique(warped)) <= {0, *np.unique(labels)}
    assert not warped[~transform.mask()].any()
    assert transform.apply(labels, order=0, cval=7)[~transform.mask()].min() == 7


def test_channels_as_planes():
    image = np.stack([texture((110, 170), seed) for seed in range(4)], -1)
    warped = WARP.apply(image)
    for index in range(4):
        np.testing.assert_array_equal(warped[..., index], WARP.apply(image[..., index]))


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, bool, np.uint8, np.int32])
def test_nothing_is_invented_outside_the_moving_image(dtype, order):
    outside = ~WARP.mask()
    assert outside.any()
    image = (100 * texture((110, 170)) + 10).astype(dtype)
    for picture in (image, np.dstack([image, image])):
        there = WARP.apply(picture, order)[outside]
        assert np.isnan(there).all() if np.dtype(dtype).kind == "f" else (there == 0).all()


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("given", [None, 7])
def test_outside_a_masked_image_is_missing_unless_a_value_is_given(order, given):
    missing = np.zeros((110, 170), bool)
    missing[40:50, 60:80] = True
    image = np.ma.MaskedArray(np.full((110, 170), 300, np.uint16), missing, fill_value=65535)
    warped = WARP.apply(image, order, cval=given)
    outside, values = ~WARP.mask(), np.ma.getdata(warped)
    lost = warped.mask & ~outside
    assert lost.any() and (values[lost] == 65535).all()
    assert (values[outside] == (65535 if given is None else given)).all()
    assert (warped.mask[outside] == (given is None)).all()
    assert (values[~warped.mask & ~outside] == 300).all()
    plain = np.ma.MaskedArray(np.full((110, 170), 20.5), missing)  # without a fill value
    assert np.isnan(np.ma.getdata(WARP.apply(plain, order))[outside]).all()


def test_cval():
    warped = WARP.apply(texture((110, 170)), cval=np.nan)
    assert np.array_equal(np.isnan(warped), ~WARP.mask())


@pytest.mark.parametrize("order", [1, 3])
def test_nan_spoils_only_what_the_mask_excludes(order):
    image = ndimage.gaussian_filter(texture((110, 170)), 2)
    holes = image.copy()
    holes[40:60, 50:80] = np.nan
    holes[80, 100] = np.inf
    warped = WARP.apply(holes, order)
    mask = WARP.mask(np.isfinite(holes))
    assert np.isfinite(warped[mask]).all()
    assert np.isnan(warped[WARP.mask() & ~mask]).all()
    assert mask.sum() < WARP.mask().sum()
    np.testing.assert_allclose(warped[mask], WARP.apply(image, order)[mask], atol=0.05)
    whole = Transform.identity((110, 170)).apply(holes, order)
    assert np.array_equal(np.isnan(whole), ~np.isfinite(holes))  # no smearing at all


def test_mask_counts_only_pixels_with_weight():
    valid = np.ones((10, 10), bool)
    valid[4, 4] = False
    assert np.array_equal(Transform.identity((10, 10)).mask(valid), valid)
    half = Transform(
        [[1, 0, 0.5], [0, 1, 0], [0, 0, 1]], fixed_shape=(10, 10), moving_shape=(10, 10)
    )
    expected = np.ones((10, 10), bool)
    expected[9] = False  # between the last row and nothing
    expected[3:5, 4] = False
    assert np.array_equal(half.mask(valid), expected)


def test_mask_forgives_rounding():
    warp = Transform(affine(), elastic((90, 90)), fixed_shape=(90, 90), moving_shape=(90, 90))
    identity = Transform(
        np.eye(3), np.full((2, 90, 90), -1e-5), fixed_shape=(90, 90), moving_shape=(90, 90)
    )
    assert identity.mask().all()
    assert not warp.mask().all()


def test_jacobian_determinant():
    displacement = np.zeros((2, 40, 40), np.float32)
    displacement[0] = 0.2 * np.arange(40)[:, None]
    displacement[1] = 0.5 * np.arange(40)[None, :]
    transform = Transform(
        affine(scale=1.1), displacement, fixed_shape=(40, 40), moving_shape=(9, 9)
    )
    determinant = transform.jacobian_determinant()
    assert determinant.shape == (40, 40)
    np.testing.assert_allclose(determinant, 1.1**2 * 1.2 * 1.5, rtol=1e-4)
    flat = Transform(affine(scale=1.1), fixed_shape=(5, 6), moving_shape=(9, 9))
    np.testing.assert_allclose(flat.jacobian_determinant(), np.full((5, 6), 1.21), rtol=1e-5)


def test_equality_and_copies():
    same = Transform(
        affine(), elastic((120, 150)), fixed_shape=(120, 150), moving_shape=(110, 170)
    )
    assert same == WARP
    assert hash(same) == hash(WARP)
    assert pickle.loads(pickle.dumps(WARP)) == WARP
    assert Transform(affine(), fixed_shape=(120, 150), moving_shape=(110, 170)) != WARP
    assert Transform.identity((4, 4)) != Transform.identity((4, 4), (4, 5))
    assert WARP != "transform"


def test_arrays_cannot_be_changed():
    given = affine()
    transform = Transform(given, fixed_shape=(4, 4), moving_shape=(4, 4))
    given[0, 0] = 5
    assert transform.affine[0, 0] != 5
    with pytest.raises(ValueError, match="read-only"):
        transform.affine[0, 0] = 5
    with pytest.raises(ValueError, match="read-only"):
        WARP.displacement[0] = 5


def test_save_and_load(tmp_path):
    path = WARP.save(tmp_path / "warp.busref.h5", {"units": "mm", "spacing": [0.5, 0.5]})
    assert [item.name for item in tmp_path.iterdir()] == ["warp.busref.h5"]
    assert Transform.load(path) == WARP
    assert read_metadata(path) == {"units": "mm", "spacing": [0.5, 0.5]}
    plain = Transform.identity((5, 6), (7, 8))
    plain.save(path)
    assert Transform.load(str(path)) == plain
    assert read_metadata(path) == {}


def test_a_failed_save_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = WARP.save(tmp_path / "a.busref.h5")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(hdf5, "_write", fail)
    with pytest.raises(OSError, match="disk full"):
        Transform.identity((4, 4)).save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert Transform.load(path) == WARP


def test_save_refuses(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.busref\.h5"):
        WARP.save(tmp_path / "warp.h5")
    with pytest.raises(ValueError, match="metadata: cannot be written as JSON"):
        WARP.save(tmp_path / "warp.busref.h5", {"a": object()})
    with pytest.raises(ValueError, match="metadata: cannot be written as JSON"):
        WARP.save(tmp_path / "warp.busref.h5", {"a": float("nan")})
    with pytest.raises(ValueError, match="at most"):
        WARP.save(tmp_path / "warp.busref.h5", {"a": "b" * 70_000})
    with pytest.raises(OSError, match="missing"):
        WARP.save(tmp_path / "missing" / "warp.busref.h5")
    assert list(tmp_path.iterdir()) == []


def test_load_refuses(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        Transform.load(tmp_path / "none.busref.h5")
    text = tmp_path / "text.busref.h5"
    text.write_text("hello")
    with pytest.raises(ValueError, match="no HDF5 file"):
        Transform.load(text)
    other = tmp_path / "other.busref.h5"
    with h5py.File(other, "w") as file:
        file["affine"] = np.eye(3)
    with pytest.raises(ValueError, match="another program"):
        Transform.load(other)
    with pytest.raises(ValueError, match="another program"):
        read_metadata(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.attrs.__setitem__("format_version", 99), "format version 99"),
        (lambda file: file.__delitem__("affine"), "damaged"),
        (lambda file: file.attrs.__delitem__("fixed_shape"), "damaged"),
        (lambda file: file.attrs.__setitem__("fixed_shape", (3, 4)), "damaged.*displacement"),
        (lambda file: file["affine"].__setitem__((0, 0), np.nan), "damaged.*NaN"),
    ],
)
def test_load_refuses_damaged_files(tmp_path, change, message):
    path = WARP.save(tmp_path / "warp.busref.h5")
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ValueError, match=message):
        Transform.load(path)


def test_load_refuses_half_a_file(tmp_path):
    path = WARP.save(tmp_path / "warp.busref.h5")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match="damaged"):
        Transform.load(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"affine": np.eye(2)}, r"affine: got shape \(2, 2\)"),
        ({"affine": "x"}, "affine: .*need"),
        ({"affine": np.full((3, 3), np.nan)}, "affine: got NaN"),
        ({"affine": np.diag([1, 1, 2.0])}, "last row"),
        ({"affine": np.diag([1, 0, 1.0])}, "cannot be inverted"),
        ({"displacement": np.zeros((2, 4, 4))}, r"displacement: got shape"),
        ({"displacement": np.full((2, 4, 5), np.inf)}, "displacement: got NaN or inf"),
        ({"fixed_shape": (4, 5, 3)}, "fixed_shape: got"),
        ({"fixed_shape": (4.5, 5)}, "fixed_shape: got"),
        ({"moving_shape": (0, 5)}, "moving_shape: got"),
        ({"moving_shape": None}, "moving_shape: got"),
    ],
)
def test_bad_transforms(arguments, message):
    with pytest.raises(ValueError, match=message):
        Transform(**{"fixed_shape": (4, 5), "moving_shape": (4, 5), **arguments})


def test_bad_arguments():
    transform = Transform.identity((4, 5))
    with pytest.raises(ValueError, match=r"image: got shape \(5, 4\), need \(4, 5\)"):
        transform.apply(np.zeros((5, 4)))
    with pytest.raises(TypeError, match="image: got dtype complex"):
        transform.apply(np.zeros((4, 5), complex))
    with pytest.raises(ValueError, match="order: got 7"):
        transform.apply(np.zeros((4, 5)), 7)
    with pytest.raises(ValueError, match="valid: got shape"):
        transform.mask(np.ones((5, 4), bool))
    with pytest.raises(ValueError, match=r"points: got shape \(3,\)"):
        transform.points([1, 2, 3])
    with pytest.raises(ValueError, match="points: got NaN"):
        transform.points([1, np.nan])


@pytest.mark.parametrize("count", [2, 5])
def test_points_on_one_line_determine_no_affine(count):
    line = np.outer(np.arange(count), (3, 2))
    with pytest.raises(ValueError, match=f"points: got {count}, need at least three that do not"):
        Transform.from_points(line, line, fixed_shape=(9, 9), moving_shape=(9, 9))


def test_no_points():
    assert WARP.points(np.empty((0, 2))).shape == (0, 2)
    assert WARP.points(np.empty((0, 2)), inverse=True).shape == (0, 2)


def test_the_file_can_be_read_as_documented(tmp_path):
    """The snippet of docs/reference/formats.md."""
    moving = texture((110, 170))
    with h5py.File(WARP.save(tmp_path / "pair.busref.h5")) as file:
        affine = file["affine"][...]
        rows, cols = file.attrs["fixed_shape"]
        grid = np.mgrid[:rows, :cols].astype(float)
        if "displacement" in file:
            grid += file["displacement"][...]
    source = np.einsum("ij,jrc->irc", affine[:2, :2], grid) + affine[:2, 2, None, None]
    warped = ndimage.map_coordinates(moving, source, order=1)
    mask = WARP.mask()
    np.testing.assert_allclose(warped[mask], WARP.apply(moving)[mask], atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("i8", -(2**63), 2**63 - 1), ("u8", 0, 2**64 - 1)]
)
@pytest.mark.parametrize("order", [0, 1, 3])
def test_whole_pixel_shifts_keep_64_bit_integers(dtype, low, high, order):
    rng = np.random.default_rng(0)
    image = rng.integers(low, high, (9, 11), dtype, endpoint=True)
    image[0, 0], image[-1, -1] = low, high
    shift = Transform(
        [[1, 0, 2], [0, 1, -1], [0, 0, 1]], fixed_shape=(9, 11), moving_shape=(9, 11)
    )
    warped = shift.apply(image, order, cval=high)
    assert np.array_equal(warped[:-2, 1:], image[2:, :-1])
    assert (warped[-2:] == high).all()
    assert np.array_equal(Transform.identity((9, 11)).apply(image, order), image)


def test_64_bit_integers_far_from_zero_are_interpolated_exactly():
    image = 2**62 + np.arange(12, dtype=np.int64).reshape(2, 6) * 10
    half = Transform([[1, 0, 0], [0, 1, 0.5], [0, 0, 1]], fixed_shape=(2, 5), moving_shape=(2, 6))
    assert np.array_equal(half.apply(image), image[:, :-1] + 5)


@pytest.mark.skipif(np.finfo(np.longdouble).nmant <= 52, reason="long double is float64 here")
def test_whole_pixels_keep_long_doubles():
    image = np.longdouble(1) / np.arange(1, 13, dtype=np.longdouble).reshape(3, 4)
    assert np.array_equal(Transform.identity((3, 4)).apply(image), image)
