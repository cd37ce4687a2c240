"""Image files open only themselves, and declare no more than a limit: a crafted corpus."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_busref.images.io import read_image, read_plane

OWN = np.full((32, 40), 3, np.uint8)
SECRET = np.full((32, 40), 199, np.uint8)
UUID = "urn:uuid:00000000-0000-0000-0000-00000000000{}"
OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def chunk(kind: bytes, content: bytes) -> bytes:
    length, check = len(content), zlib.crc32(content)
    return struct.pack(">I", length) + kind + content + struct.pack(">I", check)


# -- files that name others ---------------------------------------------------------------------


def ome(path: Path, name: str, number: int = 2, root: str = f' UUID="{UUID.format(1)}"') -> None:
    """Two planes, of which the second is said to be in another file."""
    planes = "".join(
        f'<TiffData FirstT="{t}" IFD="0" PlaneCount="1"><UUID FileName="{file}">'
        f"{UUID.format(one)}</UUID></TiffData>"
        for t, file, one in ((0, path.name, 1), (1, name, number))
    )
    xml = (
        f'<?xml version="1.0"?><OME xmlns="{OME}"{root}><Image ID="Image:0"><Pixels ID="Pixels:0" '
        'DimensionOrder="XYZCT" Type="uint8" SizeX="40" SizeY="32" SizeZ="1" SizeC="1" SizeT="2">'
        f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{planes}</Pixels></Image></OME>'
    )
    tifffile.imwrite(path, OWN, description=xml, metadata=None)


@pytest.mark.parametrize("place", ["other.ome.tif", "sub/other.ome.tif", "../x.ome.tif", "/abs"])
@pytest.mark.parametrize("root", [f' UUID="{UUID.format(1)}"', ""])
def test_ome_tiff_with_planes_elsewhere(tmp_path: Path, place: str, root: str) -> None:
    folder = tmp_path / "in"
    other = tmp_path / "abs.ome.tif" if place == "/abs" else folder / place
    folder.mkdir()
    other.parent.mkdir(exist_ok=True)
    tifffile.imwrite(other, SECRET)
    path = folder / "a.ome.tif"
    ome(path, str(other) if place == "/abs" else place, root=root)
    for read in (read_image, read_plane):
        with pytest.raises(ValueError, match=r"a\.ome\.tif has planes in other files, .*not open"):
            read(path)


def test_a_renamed_ome_tiff_still_opens(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    stack = np.stack([OWN, OWN + 1])
    for number in (1, 2):
        ome(path, path.name, number=1, root="" if number == 2 else f' UUID="{UUID.format(1)}"')
        found = read_image(path.rename(tmp_path / f"{number}.tif")).data
        np.testing.assert_array_equal(found, stack[:1].repeat(2, 0))
    tifffile.imwrite(path, stack, ome=True, metadata={"axes": "TYX"})
    np.testing.assert_array_equal(read_image(path.rename(tmp_path / "c.tif")).data, stack)


@pytest.mark.parametrize("kind", ["mmstack", "ndtiff"])
def test_micro_manager_stacks_stay_within_their_file(tmp_path: Path, kind: str) -> None:
    """tifffile looks for neighbours by their names; a stream has none."""
    path = tmp_path / "a_MMStack.tif"
    tifffile.imwrite(tmp_path / "a_MMStack_1.tif", SECRET)
    tifffile.imwrite(path, OWN)
    (tmp_path / "NDTiff.index").write_bytes(bytes(64))
    (tmp_path / "NDTiffStack.tif").write_bytes((tmp_path / "a_MMStack_1.tif").read_bytes())
    np.testing.assert_array_equal(read_image(path).data, OWN)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tif", '<VRTDataset rasterXSize="40" rasterYSize="32"><SourceFilename>s.tif</S…>'),
        ("a.png", "s.png"),
        ("a.pgm", "P5\n# s.pgm\n40 32\n255\n"),
        ("a.npy", "\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}"),
    ],
)
def test_text_that_names_a_file_is_no_image(tmp_path: Path, name: str, text: str) -> None:
    Image.fromarray(SECRET).save(tmp_path / "s.png")
    (tmp_path / name).write_text(text, encoding="latin-1", errors="replace")
    with pytest.raises(ValueError, match=f"{name} cannot be read as"):
        read_image(tmp_path / name)


def test_a_dicom_directory_is_not_followed(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileMetaDataset

    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.MediaStorageDirectoryStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    record = pydicom.Dataset()
    record.ReferencedFileID = ["A", "SECRET"]
    dataset.DirectoryRecordSequence = [record]
    dataset.PixelDataProviderURL = (tmp_path / "secret").as_uri()
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(ValueError, match=r"a\.dcm: this DICOM file holds no pixels"):
        read_image(tmp_path / "a.dcm")


# -- what is no plain file ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.npy", "a.dcm", "a.jp2"])
@pytest.mark.parametrize("kind", ["pipe", "device", "sparse"])
def test_pipes_devices_and_endless_files(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as stream:
            stream.truncate(5 << 30)
    with pytest.raises(ValueError, match=rf"{name} (is no plain file|declares a file of 5 GiB)"):
        read_image(path)


# -- sizes --------------------------------------------------------------------------------------


def png(path: Path, side: int, depth: int, colour: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    data = zlib.compress(bytes(1 << 16))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def big_tiff(path: Path, tags: dict[int, tuple[int, int]], content: bytes = bytes(64)) -> None:
    """A TIFF of a few tags, which declares what it does not hold."""
    offset = 8 + 2 + 12 * (len(tags) + 2) + 4
    place = (324, 325) if 322 in tags else (273, 279)
    tags = {**tags, place[0]: (4, offset), place[1]: (4, len(content))}
    entries = b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(tags.items())
    )
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(head + content)


def tiff_of(path: Path, width: int, height: int, bits: int = 8, **more: object) -> None:
    tags = {256: (4, width), 257: (4, height), 258: (3, bits), 262: (3, 1), 277: (3, 1)}
    tags |= {259: (3, more.get("compression", 1)), 278: (4, more.get("rows", height))}
    if "tile" in more:
        tags |= {322: (4, more["tile"]), 323: (4, more["tile"])}
    big_tiff(path, tags, more.get("content", bytes(64)))


def jpeg_of(rows: int, columns: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(OWN).save(stream, "JPEG")
    content = bytearray(stream.getvalue())
    at = content.find(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", rows, columns)
    return bytes(content)


def jp2_of(side: int, components: int = 1, *, box: bool = False) -> bytes:
    kind = "jp2" if box else "j2k"
    content = bytearray(imagecodecs.jpeg2k_encode(OWN, level=0, codecformat=kind))
    at = content.find(b"\xff\x4f\xff\x51") + 4
    content[at + 4 : at + 12] = struct.pack(">II", side, side)
    content[at + 36 : at + 38] = struct.pack(">H", components)
    return bytes(content)


def jxl_of(side: int) -> bytes:
    """The size header alone: not small, 30 bits, square."""
    bits = 0 | (3 << 1) | ((side - 1) << 3) | (1 << 33)
    return b"\xff\x0a" + bits.to_bytes(8, "little")


def gif_of(side: int) -> bytes:
    stream = io.BytesIO()
    frames = [Image.fromarray(OWN + i) for i in range(2)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    content = bytearray(stream.getvalue())
    content[6:10] = struct.pack("<HH", side, side)
    return bytes(content)


def webp_of(side: int) -> bytes:
    """The canvas of an extended file."""
    size = (side - 1).to_bytes(3, "little") * 2
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp_of(side: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def npy_of(shape: tuple[int, ...], kind: str = "<f8") -> bytes:
    stream = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + bytes(64)


def lerc_of(side: int) -> bytes:
    return b"Lerc2 " + struct.pack("<iIii", 4, 0, side, side)


def dicom_of(path: Path, side: int, *, deflated: int = 0) -> None:
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset.Rows = dataset.Columns = side
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = bytes(64 + deflated)
    syntax = "DeflatedExplicitVRLittleEndian" if deflated else "ExplicitVRLittleEndian"
    dataset.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    dataset.save_as(path, enforce_file_format=True)


CORPUS = {
    "plain.tif": lambda p: tiff_of(p, 200_000, 200_000),
    "deep.tif": lambda p: tiff_of(p, 60_000, 60_000, 64),
    "wide.tif": lambda p: tiff_of(p, 2**32 - 1, 2**32 - 1, 64),
    "zlib.tif": lambda p: tiff_of(
        p, 60_000, 60_000, compression=8, content=zlib.compress(bytes(10**7))
    ),
    "tile.tif": lambda p: tiff_of(p, 8, 8, compression=8, tile=2**20),
    "jpeg.tif": lambda p: tiff_of(p, 8, 8, compression=7, content=jpeg_of(65_000, 65_000)),
    "jp2.tif": lambda p: tiff_of(p, 8, 8, compression=34712, content=jp2_of(90_000)),
    "png.tif": lambda p: (
        png(p, 60_000, 8, 0),
        tiff_of(p, 8, 8, compression=34933, content=p.read_bytes()),
    ),
    "jxl.tif": lambda p: tiff_of(p, 8, 8, compression=50002, content=jxl_of(2**20)),
    "lerc.tif": lambda p: tiff_of(p, 8, 8, compression=34887, content=lerc_of(90_000)),
    "grey.png": lambda p: png(p, 60_000, 8, 0),
    "deep.png": lambda p: png(p, 60_000, 16, 6),
    "bits.png": lambda p: png(p, 1_000_000, 1, 0),
    "a.jpg": lambda p: p.write_bytes(jpeg_of(65_000, 65_000)),
    "a.j2k": lambda p: p.write_bytes(jp2_of(90_000)),
    "components.j2k": lambda p: p.write_bytes(jp2_of(10_000, 16_000)),
    "box.jp2": lambda p: p.write_bytes(jp2_of(90_000, box=True)),
    "a.gif": lambda p: p.write_bytes(gif_of(65_000)),
    "a.webp": lambda p: p.write_bytes(webp_of(16_384)),
    "canvas.webp": lambda p: p.write_bytes(webp_of(60_000)),
    "a.bmp": lambda p: p.write_bytes(bmp_of(60_000)),
    "a.pgm": lambda p: p.write_bytes(b"P5\n200000 200000\n255\n" + bytes(64)),
    "a.dcm": lambda p: dicom_of(p, 60_000),
    "deflated.dcm": lambda p: dicom_of(p, 8, deflated=50_000_000),
    "a.npy": lambda p: p.write_bytes(npy_of((2**20, 2**20))),
    "overflow.npy": lambda p: p.write_bytes(npy_of((2**40, 2**40))),
    "text.npy": lambda p: p.write_bytes(npy_of((4,), "<U500000000")),
}

RUN = """
import os, resource, sys
from napari_busref.images.io import read_image, read_plane
import imagecodecs, pydicom, tifffile
used = lambda: int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
os.environ["NAPARI_BUSREF_MEMORY"] = "0.04"
resource.setrlimit(resource.RLIMIT_AS, (used() + (1 << 30),) * 2)
for path in sys.argv[1:]:
    for read in (read_image, read_plane):
        try:
            print(path, read(path).data.shape)
        except (ValueError, OSError) as error:
            print(path, str(error).replace("\\n", " ") if path in str(error) else "UNNAMED")
"""


@pytest.mark.parametrize("read", [read_image, read_plane])
def test_the_limit_is_an_option(tmp_path: Path, read: object) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((300, 400), np.float64))
    assert read(path, memory_limit=1).data.shape == (300, 400)
    with pytest.raises(ValueError, match=r"declares a file of 0\.000894 GiB, above the limit"):
        read(path, memory_limit=1e-4)
    with pytest.raises(ValueError, match="memory_limit: got 'much', need a number"):
        read(path, memory_limit="much")
    assert read(path).data.shape == (300, 400)  # the limit of one call is not that of the next


def test_no_declared_size_takes_memory(tmp_path: Path) -> None:
    """All in a process that may take 1 GiB more, of which a file may declare 0.04."""
    for name, write in CORPUS.items():
        write(tmp_path / name)
    paths = [str(tmp_path / name) for name in CORPUS]
    command = [sys.executable, "-c", RUN, *paths]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    lines = found.stdout.splitlines()
    assert found.returncode == 0, found.stderr
    assert len(lines) == 2 * len(paths), found.stderr
    for line in lines:
        assert "cannot be read as" in line or "declares" in line or "exceeds limit" in line, line
        assert "MemoryError" not in line and "allocate" not in line, line
