"""OME-NGFF 0.6, held against the text of the specification and evaluated as it says."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from scipy import ndimage

from napari_busref import ImageGrid, Transform, read_transform, write_transform

FIXED, MOVING = (40, 56), (30, 44)
AFFINE = np.array([[0.75, 0.05, 1.0], [-0.04, 0.77, -2.0], [0.0, 0.0, 1.0]])
COS, SIN = np.cos(0.3), np.sin(0.3)
GRIDS = {
    "pixels": (ImageGrid(FIXED), ImageGrid(MOVING)),
    "upright": (
        ImageGrid(FIXED, (0.5, 0.7), (3.0, -2.0), unit="mm"),
        ImageGrid(MOVING, (600.0, 800.0), (1000.0, 20.0), unit="µm"),
    ),
    "turned": (
        ImageGrid(FIXED, (0.5, 0.7), (3.0, -2.0), ((COS, -SIN), (SIN, COS)), "mm"),
        ImageGrid(MOVING, (0.6, 0.8), unit="mm"),
    ),
    "sheared": (
        ImageGrid.from_matrix(FIXED, [[0.5, 0.2, 3.0], [0.1, 0.7, -2.0]], "mm"),
        ImageGrid(MOVING, (0.6, 0.8), unit="mm"),
    ),
}
UNITS = {"micrometer", "millimeter"}


@pytest.fixture
def elastic():
    rng = np.random.default_rng(0)
    field = ndimage.gaussian_filter(rng.normal(size=(2, *FIXED)) * 20, (0, 6, 6))
    return Transform(AFFINE, field, fixed_shape=FIXED, moving_shape=MOVING)


def attributes(folder):
    group = json.loads((folder / "zarr.json").read_text("utf-8"))
    assert (group["zarr_format"], group["node_type"]) == (3, "group")
    return group["attributes"]


def check_axes(axes):
    """The rules of "axes" metadata: unique names, known types and units, two space axes."""
    names = [axis["name"] for axis in axes]
    assert len(set(names)) == len(names) and all(names)
    assert all(axis["type"] in ("space", "displacement") for axis in axes)
    assert sum(axis["type"] == "space" for axis in axes) == 2
    assert all(axis["unit"] in UNITS for axis in axes if "unit" in axis)


def check_scene(ome):
    """The rules of "scene" metadata and of the transformations in it."""
    assert ome["version"] == "0.6"
    systems = {system["name"]: system for system in ome["scene"]["coordinateSystems"]}
    assert set(systems) == {"fixed", "moving"}
    for system in systems.values():
        check_axes(system["axes"])
        assert [axis["name"] for axis in system["axes"]] == ["y", "x"]
    (transformation,) = ome["scene"]["coordinateTransformations"]
    assert transformation["input"] == {"name": "fixed"}
    assert transformation["output"] == {"name": "moving"}
    return transformation


def evaluate(folder, transformation, points):
    """Apply a transformation to points as the specification says, (N, 2)."""
    kind = transformation["type"]
    if kind == "sequence":
        for step in transformation["transformations"]:
            points = evaluate(folder, step, points)
        return points
    if kind == "affine":
        matrix = np.array(transformation["affine"])
        assert matrix.shape == (2, 3)
        return points @ matrix[:, :2].T + matrix[:, 2]
    assert kind == "displacements" and transformation["interpolation"] == "linear"
    zarr = pytest.importorskip("zarr")
    group = folder / transformation["path"]
    (multiscale,) = attributes(group)["ome"]["multiscales"]
    (system,) = multiscale["coordinateSystems"]
    check_axes(system["axes"])
    component, *space = system["axes"]
    assert component["type"] == "displacement" and component["discrete"] is True
    assert [axis["name"] for axis in space] == ["y", "x"]
    (dataset,) = multiscale["datasets"]
    (level,) = dataset["coordinateTransformations"]
    assert level["input"] == {"path": dataset["path"]}
    assert level["output"] == {"name": system["name"]}
    scale, translation = level["transformations"]
    array = zarr.open_array(group / dataset["path"], mode="r")
    assert array.metadata.zarr_format == 3
    assert array.metadata.dimension_names == ("c", "y", "x")
    assert array.shape == (2, *FIXED)
    index = (points - translation["translation"][1:]) / scale["scale"][1:]
    vectors = [ndimage.map_coordinates(part, index.T, order=1) for part in np.asarray(array)]
    return points + np.stack(vectors, 1)


def physical(grid, pixels):
    return (pixels * grid.spacing) @ np.array(grid.direction).T + grid.origin


@pytest.mark.parametrize("grids", GRIDS)
def test_displacements_and_affine_are_what_the_specification_says(tmp_path, elastic, grids):
    pytest.importorskip("zarr", reason="needs napari-busref[large]")
    fixed, moving = GRIDS[grids]
    folder = write_transform(tmp_path / "a.ome.zarr", elastic, fixed=fixed, moving=moving)
    transformation = check_scene(attributes(folder)["ome"])
    kinds = [step["type"] for step in transformation["transformations"]]
    assert kinds == ["affine"] * (grids in ("turned", "sheared")) + ["displacements", "affine"]
    pixels = np.random.default_rng(1).uniform((1, 1), np.array(FIXED) - 2, (200, 2))
    found = evaluate(folder, transformation, physical(fixed, pixels))
    np.testing.assert_allclose(found, physical(moving, elastic.points(pixels)), rtol=1e-9)
    assert {one.name for one in folder.iterdir()} == {"zarr.json", "coordinateTransformations"}
    assert attributes(folder / "coordinateTransformations") == {}


@pytest.mark.parametrize("grids", GRIDS)
def test_an_affine_needs_no_zarr(tmp_path, elastic, grids, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    fixed, moving = GRIDS[grids]
    folder = write_transform(
        tmp_path / "a.ome.zarr", elastic, fixed=fixed, moving=moving, affine_only=True
    )
    transformation = check_scene(attributes(folder)["ome"])
    assert transformation["type"] == "affine"
    affine = Transform(AFFINE, fixed_shape=FIXED, moving_shape=MOVING)
    pixels = np.array([[0.0, 0.0], [3.0, 50.0], [20.5, 7.25]])
    found = evaluate(folder, transformation, physical(fixed, pixels))
    np.testing.assert_allclose(found, physical(moving, affine.points(pixels)), rtol=1e-9)
    with pytest.raises(ModuleNotFoundError, match=r"needs zarr.*\[large\]"):
        write_transform(tmp_path / "b.ome.zarr", elastic)
    assert [one.name for one in tmp_path.iterdir()] == ["a.ome.zarr"]


def test_what_else_is_known_is_kept_beside(tmp_path, elastic):
    fixed, moving = GRIDS["upright"]
    folder = write_transform(
        tmp_path / "a.ome.zarr",
        elastic,
        fixed=fixed,
        moving=moving,
        affine_only=True,
        metadata={"quality": {"score": 0.5}},
    )
    own = attributes(folder)["napari-busref"]
    assert own["quality"] == {"score": 0.5}
    assert ImageGrid.from_dict(own["fixed_grid"]) == fixed
    assert ImageGrid.from_dict(own["moving_grid"]) == moving


def test_only_folders_of_our_own_are_replaced(tmp_path, elastic):
    folder = tmp_path / "a.ome.zarr"
    write_transform(folder, elastic, affine_only=True)
    fixed, moving = GRIDS["upright"]
    write_transform(folder, elastic, fixed=fixed, moving=moving, affine_only=True)
    assert attributes(folder)["napari-busref"]["fixed_grid"]["unit"] == "millimeter"
    others = tmp_path / "others.ome.zarr"
    write_transform(others, elastic, affine_only=True)
    stored = json.loads((others / "zarr.json").read_text())
    del stored["attributes"]["napari-busref"]  # a transform that another program wrote
    (others / "zarr.json").write_text(json.dumps(stored))
    with pytest.raises(FileExistsError, match="is no transform of napari-busref"):
        write_transform(others, elastic)
    images = tmp_path / "images.ome.zarr"
    images.mkdir()
    (images / "zarr.json").write_text('{"attributes": {"ome": {"multiscales": []}}}')
    with pytest.raises(FileExistsError, match="is no transform of napari-busref"):
        write_transform(images, elastic, affine_only=True)
    assert [one.name for one in images.iterdir()] == ["zarr.json"]


@pytest.mark.parametrize("grids", GRIDS)
def test_the_schemas_of_the_specification_accept_it(tmp_path, elastic, grids):
    pytest.importorskip("zarr", reason="needs napari-busref[large]")
    validate = pytest.importorskip(
        "ngff_zarr.validate", reason="ngff-zarr brings the schemas of the specification"
    ).validate
    fixed, moving = GRIDS[grids]
    folder = write_transform(tmp_path / "a.ome.zarr", elastic, fixed=fixed, moving=moving)
    validate(attributes(folder), version="0.6", model="scene")
    field = attributes(folder / "coordinateTransformations" / "displacement")
    validate(field, version="0.6", model="image")


# -- read back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("grids", GRIDS)
@pytest.mark.parametrize("affine_only", [False, True], ids=["field", "affine"])
def test_a_scene_comes_back(tmp_path, elastic, grids, affine_only):
    if not affine_only:
        pytest.importorskip("zarr", reason="needs napari-busref[large]")
    fixed, moving = GRIDS[grids]
    folder = write_transform(
        tmp_path / "a.ome.zarr",
        elastic,
        fixed=fixed,
        moving=moving,
        affine_only=affine_only,
        metadata={"fixed": "vis"},
    )
    found = read_transform(folder)
    np.testing.assert_allclose(found.transform.affine, AFFINE, atol=1e-9)
    if affine_only:
        assert found.transform.displacement is None
    else:
        np.testing.assert_allclose(found.transform.displacement, elastic.displacement, atol=2e-6)
    assert (found.fixed, found.moving, found.metadata) == (fixed, moving, {"fixed": "vis"})
    # in an unknown unit, from another program that stores no grids
    group = json.loads((folder / "zarr.json").read_text())
    del group["attributes"]["napari-busref"]
    (folder / "zarr.json").write_text(json.dumps(group))
    with pytest.raises(ValueError, match=r"fixed: .* does not hold the grids"):
        read_transform(folder)
    given = [grid.to("m") if grid.has_length else grid for grid in (fixed, moving)]
    again = read_transform(folder, fixed=given[0], moving=given[1]).transform
    np.testing.assert_allclose(again.affine, AFFINE, atol=1e-9)


def scene(folder, step, axes=("y", "x"), **more):
    """A scene as another program may write it."""
    folder.mkdir()
    systems = [
        {"name": name, "axes": [{"name": axis, "type": "space"} for axis in axes]}
        for name in ("a", "b")
    ]
    ends = {"input": {"name": "a"}, "output": {"name": "b"}}
    ome = {
        "version": "0.6",
        "scene": {"coordinateSystems": systems, "coordinateTransformations": [step | ends]},
    }
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome} | more}
    (folder / "zarr.json").write_text(json.dumps(group))
    return folder


@pytest.mark.parametrize(
    ("step", "matrix"),
    [
        ({"type": "identity"}, [[1, 0, 0], [0, 1, 0]]),
        ({"type": "scale", "scale": [2, 3]}, [[2, 0, 0], [0, 3, 0]]),
        ({"type": "translation", "translation": [2, 3]}, [[1, 0, 2], [0, 1, 3]]),
        ({"type": "rotation", "rotation": [[0, -1], [1, 0]]}, [[0, -1, 0], [1, 0, 0]]),
        (
            {
                "type": "sequence",
                "transformations": [
                    {"type": "scale", "scale": [2, 3]},
                    {"type": "sequence", "transformations": [{"type": "identity"}]},
                    {"type": "translation", "translation": [4, 5]},
                ],
            },
            [[2, 0, 4], [0, 3, 5]],
        ),
    ],
)
def test_linear_transformations_of_other_programs_are_read(tmp_path, step, matrix):
    folder = scene(tmp_path / "a.ome.zarr", step)
    found = read_transform(folder, fixed=FIXED, moving=MOVING).transform
    np.testing.assert_allclose(found.affine[:2], matrix)


@pytest.mark.parametrize(
    ("step", "axes", "message"),
    [
        ({"type": "identity"}, ("z", "y", "x"), "has axes z, y, x, need y, x"),
        ({"type": "byDimension"}, ("y", "x"), "of type 'byDimension'; read are identity"),
        ({"type": "scale", "scale": [1, 2, 3]}, ("y", "x"), r"a scale of shape \(3,\)"),
        ({"type": "affine", "path": "a"}, ("y", "x"), "keeps its affine in an array"),
        ({"type": "displacements", "path": "../b"}, ("y", "x"), "outside the folder"),
        ({"type": "displacements", "path": "none"}, ("y", "x"), "is damaged"),
        ({"type": "sequence"}, ("y", "x"), "is damaged"),
        ({"type": "affine", "affine": [[0, 0, 1], [0, 0, 1]]}, ("y", "x"), "cannot be inverted"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(tmp_path, step, axes, message):
    folder = scene(tmp_path / "a.ome.zarr", step, axes)
    with pytest.raises(ValueError, match=message):
        read_transform(folder, fixed=FIXED, moving=MOVING)


def test_a_folder_without_a_scene_is_refused(tmp_path):
    (tmp_path / "a.ome.zarr").mkdir()
    with pytest.raises(ValueError, match="holds no scene of OME-NGFF"):
        read_transform(tmp_path / "a.ome.zarr", fixed=FIXED, moving=MOVING)
