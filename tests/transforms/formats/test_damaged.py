"""Damaged transform files: a transform, or an error that names the file.

``DAMAGE_DRAWS=50 pytest tests/transforms/formats/test_damaged.py`` draws more of each kind.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from damage import KINDS, damage
from napari_busref import Transform, TransformFile, read_transform, write_transform
from napari_busref.transforms.formats import ImageGrid, points_csv
from napari_busref.transforms.transform import read_metadata

pytestmark = pytest.mark.usefixtures("no_hang")

DRAWS = int(os.environ.get("DAMAGE_DRAWS", "1"))
SHAPE = (24, 30)
AFFINE = np.array([[0.9, 0.1, 1.0], [-0.1, 1.1, -2.0], [0.0, 0.0, 1.0]])
ELASTIX = """(Transform "EulerTransform")
(NumberOfParameters 3)
(TransformParameters 0.1 3 4)
(InitialTransformParametersFileName "NoInitialTransform")
(FixedImageDimension 2)
(MovingImageDimension 2)
(CenterOfRotationPoint 2 3)
"""
BIGWARP = "".join(
    f'"Pt-{i}","true","{x}.5","{y}.25","{x}","{y}"\n'
    for i, (x, y) in enumerate([(1, 2), (20, 3), (4, 20), (22, 19), (11, 12)])
)
QGIS = "mapX,mapY,sourceX,sourceY,enable\n" + "".join(
    f"{x},{-y},{x + 1},{-y},1\n" for x, y in [(1, 2), (20, 3), (4, 20), (22, 19)]
)
NAMES = (
    "a.busref.h5",
    "stack.busref.h5",
    "affine.tfm",
    "composite.tfm",
    "elastix.txt",
    "a.mat",
    "a.h5",
    "a.nrrd",
    "a.nii",
    "a.nii.gz",
    "a.mha",
    "a.csv",
    "bigwarp.csv",
    "a.points",
    "a.ome.zarr",
    "field.ome.zarr",
)


def write(folder: Path, name: str) -> None:
    field = np.random.default_rng(0).normal(0, 0.1, (2, *SHAPE)).astype(np.float32)
    affine = Transform(AFFINE, fixed_shape=SHAPE, moving_shape=SHAPE)
    elastic = Transform(AFFINE, field, fixed_shape=SHAPE, moving_shape=SHAPE)
    texts = {"elastix.txt": ELASTIX, "bigwarp.csv": BIGWARP, "a.points": QGIS}
    if name in texts:
        (folder / name).write_text(texts[name])
        return
    if name.endswith((".mat", ".nrrd", ".nii", ".nii.gz", ".mha", "composite.tfm", "a.h5")):
        pytest.importorskip("SimpleITK")
    if name == "field.ome.zarr":
        pytest.importorskip("zarr")
    grid = ImageGrid(SHAPE)
    planes = {(i,): TransformFile(elastic, grid, grid) for i in range(2)}
    plain = name in ("affine.tfm", "a.mat", "a.csv", "a.ome.zarr")
    write_transform(
        folder / name,
        affine if plain else elastic,
        metadata={"quality": {"score": 0.5}},
        planes=planes if name.startswith("stack") else None,
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_damaged_transforms_are_named(tmp_path: Path, sources: Path, name: str) -> None:
    write(sources, name)
    if not (sources / "a.npy").exists():
        np.save(sources / "a.npy", np.zeros(SHAPE))
        write(sources, "a.points")
    calls = [lambda path: read_transform(path, fixed=SHAPE, moving=SHAPE)]
    if name.endswith(".busref.h5"):
        calls += [read_transform, Transform.load, read_metadata]
    if name.endswith(".csv"):
        calls.append(lambda path: points_csv.map_points_file(path, tmp_path / "o.csv", np.array))
    calls[0](sources / name)
    for kind in KINDS:
        for draw in range(DRAWS):
            rng = np.random.default_rng([draw, zlib.crc32(f"{name} {kind}".encode())])
            path = tmp_path / f"{draw} {kind} {name}"
            other = sources / ("a.npy" if rng.random() < 0.5 or "points" in name else "a.points")
            damage(sources / name, path, kind, rng, other)
            for call in calls:
                text = path.name
                try:
                    call(path)
                except (ValueError, OSError) as error:
                    text = str(error)
                assert path.name in text, (kind, draw, text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "[" * 500_000),
        ("a.csv", "# maps: fixed (row, col, 1) in" + " to moving (row, col, 1) in" * 30_000),
        ("a.txt", "(Transform (TransformParameters" + "\n" * 500_000),
        ("a.txt", "(Transform (TransformParameters\n(a" + " " * 500_000),
        ("a.points", "mapX," + '"' * 500_000),
        ("a.tfm", "#Insight Transform File V1.0\nTransform: " + "a_double_" * 50_000 + "\n"),
    ],
)
def test_no_pattern_takes_the_square_of_the_time(tmp_path: Path, name: str, text: str) -> None:
    """Each takes milliseconds, or hours."""
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=name):
        read_transform(path, fixed=SHAPE, moving=SHAPE)
    if name == "a.csv":
        with pytest.raises(ValueError, match=name):
            points_csv.map_points_file(path, tmp_path / "o.csv", np.array)


@pytest.mark.parametrize("name", ["a.busref.h5", "a.h5"])
@pytest.mark.parametrize("size", [0, 2**62])
def test_strings_without_an_end_do_not_hang_hdf5(tmp_path: Path, name: str, size: int) -> None:
    write(tmp_path, name)
    content = bytearray((tmp_path / name).read_bytes())
    at = content.find(b"GCOL") + 16
    assert at > 16
    content[at : at + 16] = bytes(8) + size.to_bytes(8, "little")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}.* is damaged: its strings have no end"):
        read_transform(tmp_path / name, fixed=SHAPE, moving=SHAPE)


def test_strings_in_no_place_do_not_hang_itk(tmp_path: Path) -> None:
    write(tmp_path, "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        at = file["TransformGroup/1/TransformType"].id.get_offset()
    content = bytearray((tmp_path / "a.h5").read_bytes())
    content[at : at + 16] = np.random.default_rng(0).bytes(16)
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.h5' is damaged: 'TransformType' holds no strings"):
        read_transform(tmp_path / "a.h5", fixed=SHAPE, moving=SHAPE)
