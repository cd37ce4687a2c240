"""Parameter files of elastix, against SimpleITK's transforms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_busref import ImageGrid, read_transform

FIXED = ImageGrid((30, 40), spacing=(0.5, 0.7), origin=(3, -2), unit="mm")
MOVING = ImageGrid((35, 25), spacing=(0.6, 0.4), origin=(-1, 2), unit="mm")


@pytest.fixture(scope="session")
def sitk():
    return pytest.importorskip("SimpleITK")


def parameter_file(
    path: Path, kind: str, parameters: list[float], dimension: int = 2, **more: str
) -> Path:
    values = {
        "Transform": f'"{kind}"',
        "NumberOfParameters": str(len(parameters)),
        "TransformParameters": " ".join(map(repr, parameters)),
        "InitialTransformParametersFileName": '"NoInitialTransform"',
        "HowToCombineTransforms": '"Compose"',
        "FixedImageDimension": str(dimension),
        "MovingImageDimension": str(dimension),
    } | more
    lines = [f"({name} {value})" for name, value in values.items() if value]
    path.write_text("\n// Image specific\n".join(lines) + "\n")
    return path


def check(path: Path, expected) -> None:
    """The file maps the physical position of each fixed pixel as SimpleITK does."""
    found = read_transform(path, fixed=FIXED, moving=MOVING).transform
    pixels = np.mgrid[:30, :40].reshape(2, -1).T
    here = pixels * FIXED.spacing + FIXED.origin
    there = found.points(pixels) * MOVING.spacing + MOVING.origin
    wanted = [expected.TransformPoint(point[::-1])[::-1] for point in here.tolist()]
    np.testing.assert_allclose(there, wanted, atol=1e-5)


def test_linear_transforms(sitk, tmp_path: Path) -> None:
    center = (4.0, 7.0)
    euler = sitk.Euler2DTransform(center, 0.3, (1.5, -2.0))
    similarity = sitk.Similarity2DTransform(1.2, -0.2, (0.5, 1.0), center)
    affine = sitk.AffineTransform([1.1, 0.2, -0.1, 0.9], (3.0, -1.0), center)
    translation = sitk.TranslationTransform(2, (2.5, -4.0))
    for kind, transform in (
        ("EulerTransform", euler),
        ("SimilarityTransform", similarity),
        ("AffineTransform", affine),
        ("TranslationTransform", translation),
    ):
        middle = "" if kind == "TranslationTransform" else "4.0 7.0"
        path = parameter_file(
            tmp_path / "TransformParameters.0.txt",
            kind,
            list(transform.GetParameters()),
            CenterOfRotationPoint=middle,
        )
        check(path, transform)


@pytest.mark.parametrize("counted", ["true", "false"])
def test_directions_count_unless_the_file_says_otherwise(tmp_path: Path, counted: str) -> None:
    turned = ImageGrid((30, 40), direction=[[0.0, 1.0], [-1.0, 0.0]], unit="mm")
    path = parameter_file(
        tmp_path / "p.txt", "TranslationTransform", [2.0, 5.0], UseDirectionCosines=f'"{counted}"'
    )
    found = read_transform(path, fixed=turned, moving=turned).transform.points([[10.0, 20.0]])
    moved = np.linalg.solve(turned.matrix[:2, :2], (5.0, 2.0)) if counted == "true" else (5.0, 2.0)
    np.testing.assert_allclose(found, [np.array((10.0, 20.0)) + moved])


@pytest.mark.parametrize("order", [1, 2, 3])
def test_splines(sitk, tmp_path: Path, order: int) -> None:
    spline = sitk.BSplineTransform(2, order)
    spline.SetTransformDomainOrigin((-1.0, 4.0))
    spline.SetTransformDomainPhysicalDimensions((21.3, 12.1))  # less than the image
    spline.SetTransformDomainMeshSize((5, 4))
    parameters = np.random.default_rng(order).normal(0, 1, len(spline.GetParameters())).tolist()
    spline.SetParameters(parameters)
    columns, rows, x, y, dx, dy, *_ = spline.GetFixedParameters()
    path = parameter_file(
        tmp_path / "spline.txt",
        "BSplineTransform",
        parameters,
        GridSize=f"{columns:.0f} {rows:.0f}",
        GridIndex="0 0",
        GridSpacing=f"{dx!r} {dy!r}",
        GridOrigin=f"{x!r} {y!r}",
        GridDirection="1 0 0 1",
        BSplineTransformSplineOrder=str(order),
    )
    check(path, spline)


@pytest.mark.parametrize(
    ("kind", "parameters", "more", "message"),
    [
        ("EulerTransform", [0.0] * 6, {"FixedImageDimension": "3"}, "three-dimensional"),
        ("EulerTransform", [0.0, 1.0], {}, "elastix parameter file"),
        ("EulerTransform", [0.0, 1.0, np.nan], {}, "need finite numbers"),
        ("ThinPlateSplineKernelTransform", [0.0], {}, "holds a ThinPlate.*read are Translation"),
        ("AffineTransform", [0.0] * 6, {}, "cannot be inverted"),
        ("EulerTransform", [0.0] * 4, {}, "has 4 parameters of a Euler2DTransform, need 3"),
        (
            "TranslationTransform",
            [0.0, 0.0],
            {"InitialTransformParametersFileName": '"../TransformParameters.0.txt"'},
            "continues '../TransformParameters.0.txt', and other files are not opened",
        ),
        (
            "BSplineTransform",
            [0.0] * 8,
            {"GridSize": "100000 100000", "GridSpacing": "1 1", "GridOrigin": "0 0"},
            "8 parameters for a grid of 100000 x 100000",
        ),
        ("BSplineTransform", [0.0] * 50, {"GridSize": "5 5"}, "without GridSpacing"),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, kind: str, parameters: list[float], more: dict[str, str], message: str
) -> None:
    path = parameter_file(tmp_path / "p.txt", kind, parameters, **more)
    with pytest.raises(ValueError, match=message) as caught:
        read_transform(path, fixed=FIXED, moving=MOVING)
    assert str(caught.value).startswith(("path: ", "affine: "))
