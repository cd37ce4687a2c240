"""Read DICOM with pydicom: modality values, spacing, padding and frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_busref.images.declared import check_array, check_inflated
from napari_busref.images.selection import Stored

__all__ = ["read_dicom"]


def read_dicom(file: Path) -> Stored:
    """Read all frames, in the unit of the modality (Hounsfield units of a CT).

    The rescale slope and intercept are applied, MONOCHROME1 becomes normal grey, palettes and
    YBR become RGB.
    """
    from napari_busref.images.pictures import Unsupported

    try:
        import pydicom
        from pydicom.pixels import apply_color_lut, apply_modality_lut, convert_color_space
    except ImportError:
        raise Unsupported("DICOM needs pydicom: pip install 'napari-busref[dicom]'") from None
    _check_deflated(file)
    dataset = pydicom.dcmread(file)
    if "PixelData" not in dataset and "FloatPixelData" not in dataset:
        raise Unsupported("this DICOM file holds no pixels")
    _check_pixels(dataset, file)
    stored = dataset.pixel_array
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    samples = int(dataset.get("SamplesPerPixel", 1))
    metadata = _metadata(dataset)
    data: Any = stored
    if photometric == "PALETTE COLOR":
        data = apply_color_lut(stored, dataset)
        samples = data.shape[-1]
        if data.dtype == np.uint16:
            data = (data >> 8).astype(np.uint8)
    elif photometric.startswith("YBR") and samples == 3:
        if str(dataset.get("LossyImageCompression", "")) != "01":
            data = convert_color_space(stored, photometric, "RGB")
    elif samples == 1:
        padding = _padding(dataset, stored)
        data = apply_modality_lut(stored, dataset)
        if photometric == "MONOCHROME1":
            data = _inverted(np.asarray(data), dataset)
        data = _shortest(np.asarray(data), stored.dtype)
        frames = "I" * (data.ndim - 2)
        if padding is not None and padding.any():
            if data.dtype.kind != "f":
                data = np.ma.MaskedArray(data, mask=padding, fill_value=0)
            else:
                data[padding] = np.nan
        return Stored(data, f"{frames}YX", metadata)
    return Stored(np.asarray(data), "I" * (data.ndim - 3) + "YXS", metadata)


def _check_deflated(file: Path) -> None:
    """Check the size of a deflated data set, which pydicom inflates as it opens the file."""
    from pydicom.filereader import _read_file_meta_info as read_meta
    from pydicom.filereader import read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    with file.open("rb") as stream:
        read_preamble(stream, force=False)
        meta = read_meta(stream)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            check_inflated(stream.read(), file)


def _check_pixels(dataset: Any, file: Path) -> None:
    """Check the size of all frames, as the values that the modality makes of them."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    shape = (frames, dataset.Rows, dataset.Columns, dataset.get("SamplesPerPixel") or 1)
    check_array(shape, f"u{max(1, int(dataset.BitsAllocated) // 8)}", file)


def _inverted(data: Any, dataset: Any) -> Any:
    """White-is-low values turned round: over the stored bits, else over their range."""
    if data.dtype.kind == "u" and "RescaleSlope" not in dataset:
        return data.dtype.type(2 ** int(dataset.BitsStored) - 1) - data
    return float(data.max()) + float(data.min()) - data


def _metadata(dataset: Any) -> dict[str, Any]:
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        spacing = dataset.get(name)
        if spacing is not None and len(spacing) == 2:
            return {"spacing": (float(spacing[0]), float(spacing[1])), "unit": "mm"}
    try:
        measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        rows, cols = measures.PixelSpacing
    except (AttributeError, IndexError, TypeError, ValueError):
        return {}
    return {"spacing": (float(rows), float(cols)), "unit": "mm"}


def _padding(dataset: Any, stored: Any) -> Any:
    """Pixels of the padding value, or in the range to its limit."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit", value)
    low, high = sorted((int(value), int(limit)))
    return (stored >= low) & (stored <= high)


def _shortest(data: Any, dtype: Any) -> Any:
    """Whole numbers as the stored type where they fit, else int32; other numbers as float32."""
    if data.dtype.kind == "f":
        if (data != np.rint(data)).any():
            return data.astype(np.float32)
        for kind in (dtype, np.dtype(np.int16), np.dtype(np.int32)):
            limits = np.iinfo(kind)
            if limits.min <= data.min() and data.max() <= limits.max:
                return data.astype(kind)
    return data
