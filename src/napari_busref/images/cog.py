"""Write cloud-optimised GeoTIFFs (COG): compressed tiles with overviews."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from napari_busref.images.labels import count_labels
from napari_busref.images.map_position import gdal, quiet_gdal
from napari_busref.images.tiff import write_tiff

__all__ = ["copy_to_cog", "write_cog"]


def write_cog(file: Path, image: NDArray[Any], metadata: dict[str, Any]) -> None:
    """Write pixels, geotags and the value of missing pixels as a COG.

    Raises
    ------
    ValueError
        When GDAL cannot hold this type or shape.
    ModuleNotFoundError
        Without rasterio.
    """
    if image.ndim > 2 and not (image.ndim == 3 and image.shape[-1] in (3, 4)):
        raise ValueError(f"data: got shape {image.shape}, need (H, W), (H, W, 3) or (H, W, 4)")
    gdal()
    plain = file.with_name(f"plain-{file.name}")
    write_tiff(plain, image, metadata)
    copy_to_cog(plain, file, nearest=count_labels(image) is not None)


def copy_to_cog(plain: Path, file: Path, *, nearest: bool) -> None:
    """Convert a TIFF of any size to a COG, and remove it.

    Parameters
    ----------
    plain, file : Path
    nearest : bool
        Overviews take the nearest pixel, and not means.

    Raises
    ------
    ValueError
        When GDAL cannot hold this type.
    ModuleNotFoundError
        Without rasterio.
    """
    rasterio = gdal()
    try:
        with quiet_gdal():
            rasterio.shutil.copy(
                plain,
                file,
                driver="COG",
                compress="deflate",
                predictor="yes",
                bigtiff="if_safer",
                overview_resampling="nearest" if nearest else "average",
            )
    except rasterio.errors.RasterioError as error:
        raise ValueError(f"data: GDAL cannot write this image as a COG: {error}") from None
    finally:
        plain.unlink()
