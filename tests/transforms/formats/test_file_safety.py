"""Transform files open only themselves, and declare no more than a budget."""

from __future__ import annotations

import gzip
import json
import os
import struct
import zlib
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import pytest

from napari_busref import Transform, read_transform, write_transform
from napari_busref.runtime.file_safety import memory_budget

SHAPE = (24, 30)
GRIDS = {"fixed": SHAPE, "moving": SHAPE}


@pytest.fixture
def elastic() -> Transform:
    field = np.random.default_rng(0).normal(0, 0.1, (2, *SHAPE)).astype(np.float32)
    return Transform(np.eye(3), field, fixed_shape=SHAPE, moving_shape=SHAPE)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Values of another file that no reader may return."""
    (tmp_path / "other").mkdir()
    path = tmp_path / "other" / "secret.h5"
    with h5py.File(path, "w") as file:
        file["displacement"] = np.full((2, *SHAPE), 7, np.float32)
        file["affine"] = np.eye(3)
    np.full((2, *SHAPE), 7, np.float32).tofile(path.with_suffix(".raw"))
    return path


def refused(path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_transform(path, **GRIDS)
    assert path.name in str(caught.value)
    if path.name.endswith(".busref.h5"):
        with pytest.raises(ValueError, match=message):
            Transform.load(path)


@pytest.mark.parametrize("name", ["displacement", "affine"])
@pytest.mark.parametrize("kind", ["link", "soft", "raw", "virtual"])
def test_own_file_with_values_elsewhere(
    tmp_path: Path, elastic: Transform, secret: Path, name: str, kind: str
) -> None:
    path = elastic.save(tmp_path / "t.busref.h5")
    with h5py.File(path, "a") as file:
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        if kind == "link":
            file[name] = h5py.ExternalLink(str(secret), name)
        elif kind == "soft":
            file["there"] = np.zeros(shape, dtype)
            file[name] = h5py.SoftLink("/there")
        elif kind == "raw":
            raw = [(str(secret.with_suffix(".raw")), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset(name, shape, dtype, external=raw)
        else:
            layout = h5py.VirtualLayout(shape, dtype)
            layout[...] = h5py.VirtualSource(str(secret), name, shape=shape)
            file.create_virtual_dataset(name, layout)
    refused(path, "not followed" if kind in ("link", "soft") else "in another file")


def test_planes_of_another_file(tmp_path: Path, elastic: Transform) -> None:
    other = elastic.save(tmp_path / "other.busref.h5")
    path = elastic.save(tmp_path / "t.busref.h5")
    with h5py.File(path, "a") as file:
        file["planes"] = h5py.ExternalLink(str(other), "/")
    with pytest.raises(ValueError, match="planes: a link"):
        read_transform(path)


def test_values_that_read_like_strings_are_none(tmp_path: Path, elastic: Transform) -> None:
    path = elastic.save(tmp_path / "t.busref.h5")
    with path.open("ab") as stream:
        stream.write(b"GCOL" + 60 * b"\x10")
    assert Transform.load(path) == elastic


def test_declared_sizes_are_checked_first(
    tmp_path: Path, elastic: Transform, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = elastic.save(tmp_path / "t.busref.h5")
    with h5py.File(path, "a") as file:
        del file["displacement"]
        huge = (2, 60_000, 60_000)
        file.create_dataset("displacement", huge, np.float32, chunks=(1, 64, 64))
        file.attrs["fixed_shape"] = huge[1:]
    refused(path, r"declares displacement of 26.8 GiB, above the limit of 2 GiB")
    with h5py.File(path, "a") as file:
        file.attrs["fixed_shape"] = (-1, 2**40)
    refused(path, "is damaged")

    path = elastic.save(tmp_path / "small.busref.h5")
    monkeypatch.setenv("NAPARI_BUSREF_MEMORY", "1e-6")
    refused(path, "above the limit")
    monkeypatch.setenv("NAPARI_BUSREF_MEMORY", "much")
    with pytest.raises(ValueError, match="NAPARI_BUSREF_MEMORY: got 'much'"):
        memory_budget()


@pytest.mark.parametrize("kind", ["link", "raw", "virtual"])
def test_itk_h5_with_values_elsewhere(tmp_path: Path, secret: Path, kind: str) -> None:
    path = tmp_path / "t.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("TransformGroup/0")
        group["TransformType"] = np.array([b"AffineTransform_double_2_2"])
        name = "TransformParameters"
        if kind == "link":
            group[name] = h5py.ExternalLink(str(secret), "affine")
        elif kind == "raw":
            raw = [(str(secret.with_suffix(".raw")), 0, 48)]
            group.create_dataset(name, (6,), np.float64, external=raw)
        else:
            layout = h5py.VirtualLayout((3, 3), np.float64)
            layout[...] = h5py.VirtualSource(str(secret), "affine", shape=(3, 3))
            group.create_virtual_dataset(name, layout)
    refused(path, "not followed" if kind == "link" else "in another file")


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.nrrd", "NRRD0004\ntype: float\ndimension: 3\nsizes: 2 30 24\ndata file: {}\n\n"),
        ("a.nrrd", "NRRD0004\ntype: float\r\nDatafile: LIST\n{}\n"),
        ("a.mha", "ObjectType = Image\nNDims = 2\nDimSize = 30 24\nElementDataFile = {}\n"),
        ("a.mha", "ObjectType = Image\nNDims = 2\nElementDataFile = LIST\n{}\n"),
        # as lenient as the libraries
        ("a.nrrd", "NRRD0004\rtype: float\rDATA FILE: {}\r\r"),
        ("a.nrrd", "NRRD0004\n#" + "x" * (1 << 20) + "\ndata file: {}\n\n"),
        ("a.mha", "NDims = 2\n ElementDataFile : {}\nElementDataFile = LOCAL\n"),
        ("a.mha", "NDims = 2\nComment = " + "x" * (1 << 20) + "\nElementDataFile = {}\n"),
        # the content of another format
        ("a.nii", "NRRD0004\ntype: float\ndimension: 3\nsizes: 2 30 24\ndata file: {}\n\n"),
        ("a.mha", "NRRD0004\ntype: float\ndimension: 3\nsizes: 2 30 24\ndata file: {}\n\n"),
    ],
)
def test_fields_with_values_elsewhere(
    tmp_path: Path, secret: Path, name: str, header: str
) -> None:
    (tmp_path / name).write_bytes(header.format(secret.with_suffix(".raw")).encode() + bytes(64))
    refused(tmp_path / name, "values in another file, which is not opened")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_nifti_of_two_files(tmp_path: Path, elastic: Transform, suffix: str) -> None:
    pytest.importorskip("SimpleITK")
    path = write_transform(tmp_path / "a.nii", elastic)
    content = path.read_bytes()
    path.with_suffix(".img").write_bytes(bytes(4 * len(content)))
    content = content.replace(b"n+1\0", b"ni1\0")
    path = tmp_path / f"b{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    refused(path, "values in another file, which is not opened")


@pytest.mark.parametrize("kind", ["BSplineTransform", "DisplacementFieldTransform"])
@pytest.mark.parametrize("name", ["b.tfm", "b.txt", "tab.tfm", "b.h5", "b.mat"])
def test_an_absurd_grid_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    """ITK would take the memory, or abort the process."""
    path, grid = tmp_path / name, [1e5, 1e5, 0, 0, 1, 1, 1, 0, 0, 1]
    kind += "_double_2_2"
    if name == "b.h5":
        with h5py.File(path, "w") as file:
            group = file.create_group("TransformGroup/0")
            group["TransformType"] = np.array([kind.encode()])
            group["TransformFixedParameters"] = np.array(grid)
            group["TransformParameters"] = np.zeros(2)
    elif name == "b.mat":
        matrices = ((kind, np.zeros(2)), ("fixed", np.array(grid)))
        path.write_bytes(b"".join(matlab(*one) for one in matrices))
    else:
        space = "\v" if name == "tab.tfm" else " "
        path.write_text(
            f"#Insight Transform File V1.0\n#Transform 0\nTransform: {kind}\nParameters: 0 0\n"
            f"FixedParameters: {space.join(map(str, grid))}\n"
        )
    refused(path, "declares a grid of 149 GiB")


def matlab(name: str, values: np.ndarray) -> bytes:
    head = struct.pack("<5i", 0, len(values), 1, 0, len(name) + 1)
    return head + name.encode() + b"\0" + values.astype("<f8").tobytes()


def test_an_absurd_matrix_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    path.write_bytes(struct.pack("<5i", 0, 2**31 - 1, 2**31 - 1, 0, 4) + b"abc\0")
    refused(path, "is damaged: a matrix of 2147483647 x 2147483647")


@pytest.mark.parametrize("name", ["t.busref.h5", "t.h5"])
@pytest.mark.parametrize("kind", ["chunk", "bomb", "filter"])
def test_chunks_of_hdf5_hold_what_they_declare(
    tmp_path: Path, elastic: Transform, name: str, kind: str
) -> None:
    path = tmp_path / name
    elastic.save(tmp_path / "t.busref.h5")
    with h5py.File(path, "a") as file:
        data = file.require_group("TransformGroup/0") if name == "t.h5" else file
        key = "displacement"
        if key in data:
            del data[key]
        free = (2, None, None)
        if kind == "chunk":
            chunks = (1, 30_000, 30_000)
            data.create_dataset(key, (2, *SHAPE), "f4", chunks=chunks, maxshape=free)
        else:
            filters = {"compression": "lzf" if kind == "filter" else "gzip"}
            made = data.create_dataset(key, (2, *SHAPE), "f4", chunks=(2, *SHAPE), **filters)
            if kind == "bomb":
                made.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(10**7)))
    message = {"chunk": "a chunk of .* GiB", "bomb": "more than it declares", "filter": "by other"}
    refused(path, message[kind])


def test_fields_still_come_back(tmp_path: Path, elastic: Transform) -> None:
    pytest.importorskip("SimpleITK")
    for name in ("a.nrrd", "a.mha", "a.nii", "a.h5", "a.tfm"):
        path = write_transform(tmp_path / name, elastic)
        found = read_transform(path, **GRIDS).transform
        np.testing.assert_allclose(found.flow(), elastic.flow(), atol=1e-4)


class TestScenes:
    """Paths in an OME-Zarr that lead out of its folder."""

    @pytest.fixture
    def scene(self, tmp_path: Path, elastic: Transform) -> Path:
        pytest.importorskip("zarr")
        path = write_transform(tmp_path / "t.ome.zarr", elastic)
        write_transform(tmp_path / "other.ome.zarr", elastic)
        return path

    @pytest.mark.parametrize("level", ["group", "array"])
    @pytest.mark.parametrize(
        "part", ["../../../other.ome.zarr/x", "/etc", "a/../0", "", 3, "C:/x"]
    )
    def test_paths(self, scene: Path, level: str, part: object) -> None:
        field = scene / "coordinateTransformations/displacement"
        file = (scene if level == "group" else field) / "zarr.json"
        group = json.loads(file.read_text())
        if level == "group":
            steps = group["attributes"]["ome"]["scene"]["coordinateTransformations"][0]
            steps["transformations"][0]["path"] = part
        else:
            group["attributes"]["ome"]["multiscales"][0]["datasets"][0]["path"] = part
        file.write_text(json.dumps(group))
        refused(scene, "outside the folder")

    @pytest.mark.parametrize("place", ["coordinateTransformations", "0", "0/c", "0/zarr.json"])
    def test_symbolic_links(self, scene: Path, place: str) -> None:
        field = "coordinateTransformations/displacement"
        part = place if place.startswith("c") else f"{field}/{place}"
        (scene / part).rename(scene.parent / "moved")
        os.symlink(scene.parent / "moved", scene / part)
        refused(scene, "symbolic link|outside the folder")

    def test_declared_size(self, scene: Path) -> None:
        file = scene / "coordinateTransformations/displacement/0/zarr.json"
        array = json.loads(file.read_text())
        array["shape"] = [2, 10**6, 10**6]
        file.write_text(json.dumps(array))
        refused(scene, "above the limit")

    def test_declared_chunk(self, scene: Path) -> None:
        file = scene / "coordinateTransformations/displacement/0/zarr.json"
        array = json.loads(file.read_text())
        array["chunk_grid"]["configuration"]["chunk_shape"] = [2, 20_000, 20_000]  # 3 GiB
        file.write_text(json.dumps(array))
        refused(scene, "declares a chunk of")

    @pytest.mark.parametrize("codec", ["zstd", "gzip", "blosc", "bytes", "two", "sharding"])
    def test_chunks_hold_what_they_declare(self, scene: Path, codec: str) -> None:
        file = scene / "coordinateTransformations/displacement/0/zarr.json"
        array = json.loads(file.read_text())
        chunk = next(one for one in file.parent.joinpath("c").rglob("*") if one.is_file())
        bomb, codecs = bytes(10**7), [array["codecs"][0]]
        if codec == "two":
            codecs += [{"name": "gzip", "configuration": {"level": 1}}] * 2
        elif codec == "sharding":
            inner = {"chunk_shape": [2, 1, 1], "codecs": codecs, "index_codecs": codecs}
            codecs = [{"name": "sharding_indexed", "configuration": inner}]
        elif codec != "bytes":
            level = {"level": 1, "checksum": False} if codec == "zstd" else {"level": 1}
            if codec == "blosc":
                level = {"cname": "zstd", "clevel": 1, "shuffle": "noshuffle"}
                level |= {"typesize": 8, "blocksize": 0}
            codecs.append({"name": codec, "configuration": level})
            bomb = getattr(imagecodecs, f"{codec}_encode")(bomb)
        array["codecs"] = codecs
        file.write_text(json.dumps(array))
        chunk.write_bytes(bomb)
        refused(scene, "more than a chunk declares|read are blosc")

    def test_deep_json(self, scene: Path) -> None:
        (scene / "zarr.json").write_text("[" * 100_000)
        with pytest.raises(ValueError, match=r"t\.ome\.zarr"):
            read_transform(scene, **GRIDS)
