"""The transform file with its grids, and the table of an affine."""

from __future__ import annotations

import json
import sys

import h5py
import numpy as np
import pytest

from napari_busref import (
    ImageGrid,
    Quality,
    Transform,
    TransformFile,
    read_transform,
    write_transform,
)
from napari_busref.transforms import hdf5
from napari_busref.transforms.formats.files import WRITABLE
from napari_busref.transforms.transform import read_metadata

FIXED, MOVING = (20, 30), (12, 18)
AFFINE = np.array([[0.5, 0.1, 3.0], [-0.1, 0.6, -2.0], [0.0, 0.0, 1.0]])
GRIDS = {
    "fixed": ImageGrid(FIXED, (0.5, 0.25), (7.0, -3.0), ((0.8, -0.6), (0.6, 0.8)), "µm"),
    "moving": ImageGrid(MOVING, (1.0, 2.0), unit="nm"),
}


@pytest.fixture
def affine():
    return Transform(AFFINE, fixed_shape=FIXED, moving_shape=MOVING)


@pytest.fixture
def elastic():
    field = np.random.default_rng(0).normal(size=(2, *FIXED))
    return Transform(AFFINE, field, fixed_shape=FIXED, moving_shape=MOVING)


# -- .busref.h5 --------------------------------------------------------------------------------


def test_own_file_keeps_everything(tmp_path, elastic):
    quality = Quality(0.9, True, (), 0.8, 0.9, 0.5, 0.2, 3.0, 1.0, 1.0)
    metadata = {
        "fixed": "visible",
        "moving": "infrared",
        "quality": quality.as_dict(),
        "parameters": {"model": "auto", "versions": {"torch": "2"}},
        "timings": {"total": 1.5},
    }
    path = write_transform(tmp_path / "a.busref.h5", elastic, **GRIDS, metadata=metadata)
    found = read_transform(path)
    assert found.transform == elastic
    assert (found.fixed, found.moving) == (GRIDS["fixed"], GRIDS["moving"])
    assert found.metadata == json.loads(json.dumps(metadata))
    assert Quality.from_dict(found.metadata["quality"]) == quality
    with h5py.File(path) as file:  # what docs/reference/formats.md promises to other programs
        assert file.attrs["format_version"] == 1
        stored = json.loads(file.attrs["metadata"])
    assert stored["fixed_grid"] == {
        "shape": [20, 30],
        "spacing": [0.5, 0.25],
        "origin": [7.0, -3.0],
        "direction": [[0.8, -0.6], [0.6, 0.8]],
        "unit": "micrometer",
    }
    assert Transform.load(path) == elastic


def test_files_of_the_command_line_know_their_pixel_size(tmp_path, affine):
    image = {"spacing": [0.5, 0.25], "unit": "cm"}
    affine.save(tmp_path / "a.busref.h5", {"fixed_image": image, "moving_image": {}})
    found = read_transform(tmp_path / "a.busref.h5")
    assert found.fixed == ImageGrid(FIXED, (0.5, 0.25), unit="cm")
    assert found.moving == ImageGrid(MOVING)


def test_given_grids_replace_the_stored_ones(tmp_path, affine):
    path = write_transform(tmp_path / "a.busref.h5", affine, **GRIDS)
    other = ImageGrid(FIXED, (2.0, 2.0), unit="mm")
    found = read_transform(path, fixed=other)
    assert (found.fixed, found.moving) == (other, GRIDS["moving"])
    with pytest.raises(ValueError, match=r"fixed: got a grid of shape \(5, 5\)"):
        read_transform(path, fixed=(5, 5))


def test_affine_only_of_the_own_file(tmp_path, affine, elastic):
    path = write_transform(tmp_path / "a.busref.h5", elastic, affine_only=True)
    assert read_transform(path).transform == affine


def test_a_stack_of_transforms_comes_back(tmp_path, affine, elastic):
    """One a plane, each on pixels of its own."""
    coarse = Transform(AFFINE, np.ones((2, 5, 6)), fixed_shape=(5, 6), moving_shape=MOVING)
    planes = {
        (3, 0): TransformFile(elastic, **GRIDS, metadata={"quality": {"score": 0.5}}),
        (4, 0): TransformFile(affine, ImageGrid(FIXED), ImageGrid(MOVING)),
        (10, 1): TransformFile(coarse, ImageGrid((5, 6), (4.0, 5.0)), ImageGrid(MOVING)),
    }
    path = write_transform(tmp_path / "a.busref.h5", elastic, **GRIDS, planes=planes)
    found = read_transform(path)
    assert found.transform == elastic and not found.metadata
    assert list(found.planes) == list(planes)
    for position, one in planes.items():
        again = found.planes[position]
        assert again.transform == one.transform
        assert (again.fixed, again.moving, again.metadata) == (one.fixed, one.moving, one.metadata)
    assert Transform.load(path) == elastic  # the plane that was shown
    with h5py.File(path) as file:  # what docs/reference/formats.md promises to other programs
        assert file.attrs["format_version"] == 2
        assert tuple(file["planes/2"].attrs["position"]) == (10, 1)
        np.testing.assert_array_equal(file["planes/2/displacement"], coarse.displacement)
    only = write_transform(tmp_path / "b.busref.h5", elastic, affine_only=True, planes=planes)
    assert [one.transform.displacement for one in read_transform(only).planes.values()] == [
        None
    ] * 3
    with pytest.raises(ValueError, match=r"planes: a\.tfm holds one transform"):
        write_transform(tmp_path / "a.tfm", affine, planes=planes)
    wrong = {(0,): TransformFile(affine, ImageGrid((5, 5)), ImageGrid(MOVING))}
    with pytest.raises(ValueError, match="fixed: got a grid of shape"):
        write_transform(tmp_path / "a.busref.h5", affine, planes=wrong)
    with h5py.File(path, "a") as file:
        del file["planes/1/affine"]
    with pytest.raises(ValueError, match="is damaged"):
        read_transform(path)


@pytest.mark.parametrize("part", [100, 0.5, 0.9])
def test_truncated_files_are_refused(tmp_path, elastic, part):
    path = write_transform(tmp_path / "a.busref.h5", elastic, **GRIDS)
    size = part if part > 1 else int(path.stat().st_size * part)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"a\.busref\.h5' is (damaged|no HDF5 file)"):
        read_transform(path)


def test_files_of_other_programs_and_newer_versions_are_refused(tmp_path, affine):
    with h5py.File(tmp_path / "other.busref.h5", "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(ValueError, match="HDF5 file of another program"):
        read_transform(tmp_path / "other.busref.h5")
    path = write_transform(tmp_path / "new.busref.h5", affine)
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = 4
    with pytest.raises(ValueError, match=r"format version 4, .* reads 1, 2, 3"):
        read_transform(path)


@pytest.mark.parametrize("stored", ["x", {"shape": [20, 30]}, {"spacing": "x"}])
def test_damaged_grids_are_refused(tmp_path, affine, stored):
    affine.save(tmp_path / "a.busref.h5", {"fixed_grid": stored})
    with pytest.raises(ValueError, match="damaged: metadata"):
        read_transform(tmp_path / "a.busref.h5")


@pytest.mark.parametrize("name", ["fixed", "moving"])
def test_stored_grids_of_other_images_are_refused(tmp_path, affine, name):
    path, wrong = tmp_path / "a.busref.h5", {f"{name}_grid": ImageGrid((9, 8)).as_dict()}
    for own, planes in ((wrong, {}), ({}, {(0,): (affine, wrong)})):
        hdf5.save(path, affine, own, planes)
        with pytest.raises(ValueError, match=rf"{name}: got a grid of shape \(9, 8\)"):
            read_transform(path)


# -- names, grids ------------------------------------------------------------------------------


def test_names_are_checked(tmp_path, affine):
    with pytest.raises(ValueError, match=r"'a\.png', need a name that ends in one of \.busref"):
        write_transform(tmp_path / "a.png", affine)
    with pytest.raises(ValueError, match=r"'a\.zarr', need a name"):
        read_transform(tmp_path / "a.zarr")
    for name in ("a.tfm", "a.busref.h5", "a.csv", "a.ome.zarr"):
        with pytest.raises(FileNotFoundError, match=r"there is no (file|folder)"):
            read_transform(tmp_path / name, fixed=FIXED, moving=MOVING)


def test_grids_are_asked_for_and_checked(tmp_path, affine):
    path = write_transform(tmp_path / "a.tfm", affine)
    with pytest.raises(ValueError, match=r"moving: a\.tfm does not hold the grids"):
        read_transform(path, fixed=FIXED)
    with pytest.raises(ValueError, match=r"fixed: got 5, need an ImageGrid or \(rows, cols\)"):
        read_transform(path, fixed=5, moving=MOVING)
    for suffix in WRITABLE:
        with pytest.raises(ValueError, match=r"moving: got a grid of shape \(20, 30\)"):
            write_transform(tmp_path / f"b{suffix}", affine, moving=GRIDS["fixed"])
    assert [one.name for one in tmp_path.iterdir()] == ["a.tfm"]


def test_a_failed_write_leaves_the_old_file(tmp_path, affine, monkeypatch):
    path = write_transform(tmp_path / "a.csv", affine)
    before = path.read_bytes()
    monkeypatch.setattr("pathlib.Path.write_text", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_transform(path, affine, **GRIDS)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["a.csv"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path, affine):
    for name in ("a.tfm", "a.csv", "a.ome.zarr"):
        with pytest.raises(FileNotFoundError, match=r"missing.* does not exist"):
            write_transform(tmp_path / "missing" / name, affine)


# -- CSV ---------------------------------------------------------------------------------------


def test_table_says_its_direction_and_units(tmp_path, affine):
    path = write_transform(tmp_path / "a.csv", affine, **GRIDS)
    lines = path.read_text().splitlines()
    assert "fixed to moving" in lines[0]
    assert lines[1] == (
        "# maps: fixed (row, col, 1) in micrometer to moving (row, col, 1) in nanometer"
    )
    matrix = np.loadtxt(path, delimiter=",")
    pixel = np.array([3.0, 4.0, 1.0])
    np.testing.assert_allclose(
        matrix @ GRIDS["fixed"].matrix @ pixel, GRIDS["moving"].matrix @ affine.affine @ pixel
    )


def test_table_comes_back_in_any_unit(tmp_path, affine):
    path = write_transform(tmp_path / "a.csv", affine, **GRIDS)
    millimetres = {name: grid.to("mm") for name, grid in GRIDS.items()}
    for grids in (GRIDS, millimetres):
        found = read_transform(path, **grids).transform
        np.testing.assert_allclose(found.affine, AFFINE, atol=1e-9)
    with pytest.raises(ValueError, match="in micrometer, but the image's pixel size is in pixel"):
        read_transform(path, fixed=FIXED, moving=GRIDS["moving"])


@pytest.mark.parametrize(
    "text",
    [
        "0.5,0.1,3\n-0.1,0.6,-2\n",
        "# a, b\n0,5;0,1;3\n-0,1;0,6;-2\n",
        "0.5\t0.1\t3\n-0.1\t0.6\t-2\n",
    ],
)
def test_table_of_another_program(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    found = read_transform(tmp_path / "a.csv", fixed=FIXED, moving=MOVING)
    np.testing.assert_array_equal(found.transform.affine, AFFINE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,c\n", "no table of numbers"),
        ("1,0\n0,1\n", r"shape \(2, 2\), need 3 x 3"),
        ("1,0,0,0\n0,1,0,0\n0,0,1,0\n0,0,0,1\n", r"shape \(4, 4\)"),
        ("1,0,0\n0,1,0\n0.1,0,1\n", "last line 0,0,1"),
        ("1,0,0\n2,0,0\n", "cannot be inverted"),
    ],
)
def test_other_tables_are_refused(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_transform(tmp_path / "a.csv", fixed=FIXED, moving=MOVING)


def test_table_does_not_lose_a_displacement_in_silence(tmp_path, elastic):
    longest = float(np.hypot(*elastic.displacement).max())
    with pytest.raises(ValueError, match=rf"displacement field .*{longest:.3g} px.*affine_only"):
        write_transform(tmp_path / "a.csv", elastic)
    path = write_transform(tmp_path / "a.csv", elastic, affine_only=True)
    assert f"# left out: a displacement field of up to {longest:.3g} fixed pixels" in (
        path.read_text()
    )


def test_reading_and_writing_own_files_loads_no_other_package(tmp_path, affine, monkeypatch):
    for name in ("SimpleITK", "zarr"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("a.busref.h5", "a.csv", "a.tfm", "a.ome.zarr"):
        assert write_transform(tmp_path / name, affine).exists()
    assert read_metadata(tmp_path / "a.busref.h5")["moving_grid"]["unit"] == "pixel"
