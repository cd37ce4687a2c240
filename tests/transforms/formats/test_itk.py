"""ITK's transforms and fields; what is compared with ITK is computed by SimpleITK."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest
from scipy import ndimage

from napari_busref import ImageGrid, Transform, read_transform, write_transform
from napari_busref.transforms.formats.itk import FIELDS, TRANSFORMS

FIXED, MOVING = (40, 56), (30, 44)
AFFINE = np.array([[0.75, 0.05, 1.0], [-0.04, 0.77, -2.0], [0.0, 0.0, 1.0]])
COS, SIN = np.cos(0.3), np.sin(0.3)

GRIDS = {
    "pixels": (ImageGrid(FIXED), ImageGrid(MOVING)),
    "spacing": (
        ImageGrid(FIXED, (0.5, 0.7), (3.0, -2.0), unit="mm"),
        ImageGrid(MOVING, (600.0, 800.0), (1000.0, 20.0), unit="µm"),
    ),
    "turned": (
        ImageGrid(FIXED, (0.5, 0.7), (3.0, -2.0), ((COS, -SIN), (SIN, COS)), "cm"),
        ImageGrid(MOVING, (0.6, 0.8), (1.0, 0.0), ((0.0, 1.0), (-1.0, 0.0)), "cm"),
    ),
}


@pytest.fixture
def sitk():
    return pytest.importorskip("SimpleITK", reason="needs napari-busref[itk]")


@pytest.fixture
def elastic():
    rng = np.random.default_rng(0)
    field = ndimage.gaussian_filter(rng.normal(size=(2, *FIXED)) * 20, (0, 6, 6))
    return Transform(AFFINE, field, fixed_shape=FIXED, moving_shape=MOVING)


@pytest.fixture
def affine():
    return Transform(AFFINE, fixed_shape=FIXED, moving_shape=MOVING)


@pytest.fixture
def points():
    rng = np.random.default_rng(1)
    return rng.uniform((0, 0), np.array(FIXED) - 1, (200, 2))


def in_mm(grid, points):
    """(x, y) of pixel positions, in millimetres, with nothing of the module under test."""
    factor = {"centimeter": 10.0, "micrometer": 1e-3}.get(grid.unit, 1.0)
    steps = np.asarray(points) * grid.spacing
    return (steps @ np.array(grid.direction).T + grid.origin)[..., ::-1] * factor


def itk_image(sitk, array, grid):
    """An array as the image that ITK would have read from a file with this grid."""
    image = sitk.GetImageFromArray(np.asarray(array, np.float64))
    factor = {"centimeter": 10.0, "micrometer": 1e-3}.get(grid.unit, 1.0)
    image.SetSpacing([size * factor for size in grid.spacing[::-1]])
    image.SetOrigin([value * factor for value in grid.origin[::-1]])
    (a, b), (c, d) = grid.direction
    image.SetDirection([d, c, b, a])
    return image


def as_itk_transform(sitk, path):
    if path.name.endswith(FIELDS):
        return sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))
    return sitk.ReadTransform(path)


@pytest.mark.parametrize("grids", GRIDS)
@pytest.mark.parametrize("suffix", [".tfm", ".h5", *FIELDS])
def test_simpleitk_maps_points_as_we_do(sitk, tmp_path, elastic, points, suffix, grids):
    fixed, moving = GRIDS[grids]
    path = write_transform(tmp_path / f"pair{suffix}", elastic, fixed=fixed, moving=moving)
    itk = as_itk_transform(sitk, path)
    found = [itk.TransformPoint(point.tolist()) for point in in_mm(fixed, points)]
    wanted = in_mm(moving, elastic.points(points))
    # the headers of NIfTI are float32
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-5 if "nii" in suffix else 1e-9)


@pytest.mark.parametrize("grids", GRIDS)
@pytest.mark.parametrize("suffix", [".tfm", ".nrrd", ".nii.gz"])
def test_simpleitk_resamples_as_we_do(sitk, tmp_path, elastic, suffix, grids):
    fixed, moving = GRIDS[grids]
    rng = np.random.default_rng(2)
    image = ndimage.gaussian_filter(rng.normal(size=MOVING), 1.0)
    image = image / np.abs(image).max()
    path = write_transform(tmp_path / f"pair{suffix}", elastic, fixed=fixed, moving=moving)
    resample = sitk.ResampleImageFilter()
    resample.SetReferenceImage(itk_image(sitk, np.zeros(FIXED), fixed))
    resample.SetInterpolator(sitk.sitkLinear)
    resample.SetTransform(as_itk_transform(sitk, path))
    found = sitk.GetArrayFromImage(resample.Execute(itk_image(sitk, image, moving)))
    # ITK takes a border of half a pixel around the pixel centres for inside, we do not
    inside = ndimage.binary_erosion(elastic.mask())
    assert inside.mean() > 0.5
    assert np.abs(found - elastic.apply(image))[inside].max() < 1e-3


@pytest.mark.parametrize("grids", GRIDS)
@pytest.mark.parametrize("suffix", [".tfm", ".h5", *FIELDS])
def test_fields_come_back(sitk, tmp_path, elastic, points, suffix, grids):
    fixed, moving = GRIDS[grids]
    path = write_transform(tmp_path / f"pair{suffix}", elastic, fixed=fixed, moving=moving)
    found = read_transform(path, fixed=fixed, moving=moving)
    assert (found.fixed, found.moving) == (fixed, moving)
    np.testing.assert_allclose(found.transform.points(points), elastic.points(points), atol=1e-5)


@pytest.mark.parametrize("grids", GRIDS)
@pytest.mark.parametrize("suffix", TRANSFORMS)
def test_affine_comes_back(tmp_path, affine, suffix, grids, request):
    if suffix not in (".tfm", ".txt"):
        request.getfixturevalue("sitk")
    fixed, moving = GRIDS[grids]
    path = write_transform(tmp_path / f"pair.v1{suffix}", affine, fixed=fixed, moving=moving)
    found = read_transform(path, fixed=fixed, moving=moving).transform
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-9)
    assert found.displacement is None


def test_simpleitk_reads_the_text_of_an_affine(sitk, tmp_path, affine, points):
    fixed, moving = GRIDS["turned"]
    path = write_transform(tmp_path / "pair.tfm", affine, fixed=fixed, moving=moving)
    itk = sitk.AffineTransform(sitk.ReadTransform(path))
    found = [itk.TransformPoint(point.tolist()) for point in in_mm(fixed, points)]
    np.testing.assert_allclose(found, in_mm(moving, affine.points(points)), atol=1e-9)
    assert "# napari-busref" in path.read_text() and "in millimeter" in path.read_text()


def test_text_needs_no_simpleitk_and_fields_say_that_they_do(
    tmp_path, monkeypatch, affine, elastic
):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    path = write_transform(tmp_path / "pair.tfm", elastic, affine_only=True)
    np.testing.assert_allclose(
        read_transform(path, fixed=FIXED, moving=MOVING).transform.affine, affine.affine
    )
    for name in ("field.nrrd", "composite.tfm", "affine.mat"):
        transform = affine if name.endswith(".mat") else elastic
        with pytest.raises(ModuleNotFoundError, match=rf"{name} needs SimpleITK.*\[itk\]"):
            write_transform(tmp_path / name, transform)
    assert [one.name for one in tmp_path.iterdir()] == ["pair.tfm"]


def itk_linear(sitk):
    """Every kind of linear transform in two dimensions, each about a centre of its own."""
    affine = sitk.AffineTransform([1.1, 0.2, -0.1, 0.9], [3.0, -4.0], [10.0, 20.0])
    euler = sitk.Euler2DTransform([10.0, 20.0], 0.3, [3.0, -4.0])
    similarity = sitk.Similarity2DTransform(1.2, -0.4, [3.0, -4.0], [10.0, 20.0])
    translation = sitk.TranslationTransform(2, [3.0, -4.0])
    scale = sitk.ScaleTransform(2, [1.5, 0.5])
    return [affine, euler, similarity, translation, scale]


@pytest.mark.parametrize("suffix", [".tfm", ".mat", ".h5"])
@pytest.mark.parametrize("kind", range(5))
def test_linear_transforms_of_itk_are_read(sitk, tmp_path, suffix, kind):
    itk = itk_linear(sitk)[kind]
    sitk.WriteTransform(itk, tmp_path / f"one{suffix}")
    fixed, moving = GRIDS["turned"]
    found = read_transform(tmp_path / f"one{suffix}", fixed=fixed, moving=moving).transform
    assert found.displacement is None
    for pixel in [(0.0, 0.0), (7.0, 3.0), (20.5, 40.0)]:
        wanted = itk.TransformPoint(in_mm(fixed, pixel).tolist())
        np.testing.assert_allclose(in_mm(moving, found.points(pixel)), wanted, atol=1e-9)


def test_a_composite_of_linear_transforms_is_an_affine(sitk, tmp_path):
    itk = sitk.CompositeTransform(itk_linear(sitk))
    sitk.WriteTransform(itk, tmp_path / "chain.tfm")
    found = read_transform(tmp_path / "chain.tfm", fixed=FIXED, moving=MOVING).transform
    assert found.displacement is None
    wanted = itk.TransformPoint((5.0, 7.0))[::-1]
    np.testing.assert_allclose(found.points((7.0, 5.0)), wanted)


def test_a_spline_is_sampled(sitk, tmp_path, points):
    domain = itk_image(sitk, np.zeros(FIXED), ImageGrid(FIXED))
    spline = sitk.BSplineTransformInitializer(domain, [4, 4])
    rng = np.random.default_rng(3)
    spline.SetParameters(rng.normal(size=len(spline.GetParameters())).tolist())
    sitk.WriteTransform(spline, tmp_path / "spline.tfm")
    found = read_transform(tmp_path / "spline.tfm", fixed=FIXED, moving=FIXED).transform
    inside = np.round(points)[(points > 1).all(1) & (points < np.array(FIXED) - 2).all(1)]
    wanted = [spline.TransformPoint(point[::-1].tolist())[::-1] for point in inside]
    np.testing.assert_allclose(found.points(inside), wanted, atol=1e-4)


def test_nifti_is_ras_and_its_vectors_are_itks(sitk, tmp_path, elastic):
    fixed, moving = GRIDS["spacing"]
    raw = write_transform(tmp_path / "a.nii", elastic, fixed=fixed, moving=moving).read_bytes()
    assert struct.unpack("<8h", raw[40:56])[:6] == (5, FIXED[1], FIXED[0], 1, 1, 2)
    rows = np.array(struct.unpack("<12f", raw[280:328])).reshape(3, 4)
    # left and posterior grow in ITK, right and anterior in NIfTI: both signs are turned
    np.testing.assert_allclose(rows[:2, [0, 1, 3]], [[-0.7, 0, 2], [0, -0.5, -3]], atol=1e-6)
    values = np.frombuffer(raw[352:], "<f8").reshape(2, *FIXED)
    pixel = (5, 9)
    step = in_mm(moving, elastic.points(pixel)) - in_mm(fixed, pixel)
    np.testing.assert_allclose(values[:, 5, 9], step, atol=1e-9)  # (x, y), not turned


@pytest.mark.parametrize("suffix", [".tfm", ".mat"])
def test_three_dimensions_are_refused(sitk, tmp_path, suffix):
    sitk.WriteTransform(sitk.AffineTransform(3), tmp_path / f"three{suffix}")
    with pytest.raises(ValueError, match="three-dimensional transform, need a two-dimensional"):
        read_transform(tmp_path / f"three{suffix}", fixed=FIXED, moving=MOVING)


def test_fields_of_other_shapes_are_refused(sitk, tmp_path):
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkVectorFloat64, 3), tmp_path / "three.nrrd")
    sitk.WriteImage(sitk.Image([4, 4], sitk.sitkFloat32), tmp_path / "grey.nrrd")
    for name, message in (("three", "three-dimensional"), ("grey", "1 values at a pixel")):
        with pytest.raises(ValueError, match=message):
            read_transform(tmp_path / f"{name}.nrrd", fixed=FIXED, moving=MOVING)


HEAD = "#Insight Transform File V1.0\n#Transform 0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "is no ITK transform"),
        (HEAD, "names no transform"),
        (HEAD + "Transform: AffineTransform_double_2_2\nParameters: 1 0 0\n", "is damaged"),
        (HEAD + "Transform: AffineTransform_double_2_2\nParameters: 1 0 0 x 0 0\n", "is damaged"),
        (
            HEAD + "Transform: AffineTransform_double_2_2\nParameters: 1 0 0 nan 0 0\n",
            "not finite",
        ),
        (
            HEAD + "Transform: AffineTransform_double_2_2\nParameters: 1 1 1 1 0 0\n",
            "cannot be inverted",
        ),
        (HEAD + "Transform: Euler3DTransform_double_3_3\nParameters: 0\n", "three-dimensional"),
        ('(Transform "EulerTransform")\n(TransformParameters 0 0 0)\n', "elastix parameter file"),
    ],
)
def test_damaged_and_foreign_text_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.tfm"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_transform(path, fixed=FIXED, moving=MOVING)


@pytest.mark.parametrize("suffix", [".tfm", ".mat", ".h5", ".nrrd", ".nii"])
def test_bytes_of_another_program_are_refused(sitk, tmp_path, suffix):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(ValueError, match=f"bad{suffix}"):
        read_transform(path, fixed=FIXED, moving=MOVING)


def test_truncated_fields_are_refused(sitk, tmp_path, elastic):
    path = write_transform(tmp_path / "field.nrrd", elastic)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"field\.nrrd"):
        read_transform(path, fixed=FIXED, moving=MOVING)


def test_what_itk_cannot_hold_is_refused(sitk, tmp_path, elastic):
    sheared = ImageGrid.from_matrix(FIXED, [[1.0, 0.3, 0.0], [0.0, 1.0, 0.0]])
    for name in ("a.nrrd", "a.tfm"):
        with pytest.raises(ValueError, match="cannot be sheared"):
            write_transform(tmp_path / name, elastic, fixed=sheared)
    with pytest.raises(ValueError, match=r"a\.mat holds no displacement field"):
        write_transform(tmp_path / "a.mat", elastic)
    with pytest.raises(ValueError, match=r"affine_only: a\.nrrd is a displacement field"):
        write_transform(tmp_path / "a.nrrd", elastic, affine_only=True)
    # an affine between sheared grids is an affine all the same
    path = write_transform(tmp_path / "b.tfm", elastic, fixed=sheared, affine_only=True)
    found = read_transform(path, fixed=sheared, moving=MOVING).transform
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-12)
