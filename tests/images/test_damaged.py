"""Damaged image files: an image, or an error that names the file.

``DAMAGE_DRAWS=50 pytest tests/images/test_damaged.py`` draws more of each kind.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from damage import KINDS, damage
from napari_busref.images.io import read_image, read_plane

pytestmark = pytest.mark.usefixtures("no_hang")

DRAWS = int(os.environ.get("DAMAGE_DRAWS", "1"))
GREY = data.camera()[100:164, 200:280]
RGB = data.astronaut()[100:164, 200:280]
DEEP = GREY.astype(np.uint16) * 200 + 11
STACK = np.stack([DEEP, DEEP // 2])


def _pillow(image: np.ndarray, **options: object) -> Callable[[Path], object]:
    return lambda path: Image.fromarray(image).save(path, **options)


def _tiff(image: np.ndarray, **options: object) -> Callable[[Path], object]:
    return lambda path: tifffile.imwrite(path, image, **options)


def _jpeg2000(kind: str) -> Callable[[Path], object]:
    content = imagecodecs.jpeg2k_encode(RGB, level=0, codecformat=kind)
    return lambda path: path.write_bytes(content)


def _dicom(path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.Rows, dataset.Columns = DEEP.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelSpacing, dataset.PixelData = [0.5, 0.25], DEEP.tobytes()
    dataset.save_as(path, enforce_file_format=True)


def _czi(path: Path) -> None:
    pytest.importorskip("czifile")
    writer = pytest.importorskip("pylibCZIrw.czi")
    with writer.create_czi(str(path)) as czi:
        for channel in range(2):
            czi.write(data=STACK[channel, ..., None], plane={"C": channel, "Z": 0, "T": 0})


WRITERS: dict[str, Callable[[Path], object]] = {
    "plain.tif": _tiff(GREY),
    "tiles.tif": _tiff(RGB, photometric="rgb", compression="lzw", tile=(32, 32), predictor=True),
    "jpeg.tif": _tiff(RGB, photometric="rgb", compression="jpeg"),
    "deflate.tif": _tiff(STACK, compression="zlib"),
    "imagej.tif": _tiff(STACK, imagej=True, metadata={"axes": "ZYX", "unit": "um"}),
    "a.ome.tif": _tiff(STACK, ome=True, metadata={"axes": "TYX", "PhysicalSizeX": 0.5}),
    "a.btf": _tiff(DEEP, bigtiff=True),
    "grey.png": _pillow(GREY),
    "deep.png": lambda path: path.write_bytes(imagecodecs.png_encode(RGB.astype(np.uint16) * 99)),
    "a.jpg": _pillow(RGB, quality=80, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"),
    "a.bmp": _pillow(RGB),
    "a.webp": _pillow(RGB, lossless=True),
    "a.gif": _pillow(GREY, save_all=True, append_images=[Image.fromarray(GREY // 2)]),
    "a.pgm": _pillow(GREY),
    "a.jp2": _jpeg2000("jp2"),
    "a.j2k": _jpeg2000("j2k"),
    "a.npy": lambda path: np.save(path, DEEP),
    "a.dcm": _dicom,
    "a.czi": _czi,
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for name, write in WRITERS.items():
        if name not in ("a.dcm", "a.czi"):
            write(folder / name)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WRITERS)
def test_damaged_images_are_named(tmp_path: Path, sources: Path, name: str) -> None:
    if not (sources / name).exists():
        WRITERS[name](sources / name)
    others = sorted(path for path in sources.iterdir() if path.suffix != Path(name).suffix)
    read_image(sources / name)
    for kind in KINDS:
        for draw in range(DRAWS):
            rng = np.random.default_rng([draw, zlib.crc32(f"{name} {kind}".encode())])
            path = tmp_path / f"{draw} {kind} {name}"
            damage(sources / name, path, kind, rng, others[int(rng.integers(len(others)))])
            for read in (read_image, read_plane):
                try:
                    found = read(path)
                except (ValueError, OSError) as error:
                    text = str(error)
                else:
                    assert found.data.ndim >= 2 and found.data.dtype.kind in "biufc"
                    continue
                assert path.name in text, (kind, draw, text)


SHAPES = [(1, 1), (1, 40), (40, 1), (2, 1), (1, 2), (1, 1, 3), (1, 40, 3), (40, 1, 3), (1, 3, 4)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".png", ".jpg", ".npy"])
def test_one_row_and_one_pixel_come_back(tmp_path: Path, suffix: str, shape: tuple) -> None:
    from napari_busref.images.io import write_image

    for kind in ("u1", "u2", "f4", "?"):
        wide = len(shape) == 3
        if suffix in (".png", ".jpg") and (kind == "f4" or (wide and kind != "u1")):
            continue
        if suffix.startswith(".tif") and wide and kind == "?":
            with pytest.raises(ValueError, match="TIFF holds no colours of bool"):
                write_image(tmp_path / f"a{suffix}", np.ones(shape, bool))
            continue
        if suffix == ".jpg" and (kind != "u1" or shape[-1] == 4):
            continue
        image = (np.arange(np.prod(shape)).reshape(shape) * 7 % 251).astype(kind)
        path = write_image(tmp_path / f"a{suffix}", image, {"resolution": ((1, 2), (1, 2))})
        for read in (read_image, read_plane):
            found = read(path).data
            assert found.shape == shape, (kind, found.shape)
            assert suffix == ".jpg" or np.array_equal(found, image)
