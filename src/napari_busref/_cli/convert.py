"""The command convert: read and write transforms in the formats of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_busref._cli.console import escape, fail, log, out
from napari_busref._cli.options import MemoryLimit, Overwrite
from napari_busref.batch.files import refuse_existing
from napari_busref.runtime.errors import one_line

if TYPE_CHECKING:
    from napari_busref.transforms.formats import ImageGrid, TransformFile

_OPTIONAL_PACKAGES = ("SimpleITK", "zarr")


def convert(
    transform: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="Transform: .busref.h5; ITK's .tfm, .txt, .mat, .h5; a displacement field .nrrd, "
            ".nii, .nii.gz, .mha; OME-NGFF .ome.zarr; an affine .csv.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Argument(metavar="OUTPUT", help="File to write, of any of these formats."),
    ],
    fixed: Annotated[
        Path | None,
        typer.Option(
            help="The fixed image, for its size and pixel size. Not needed for .busref.h5."
        ),
    ] = None,
    moving: Annotated[Path | None, typer.Option(help="The moving image, likewise.")] = None,
    inverse: Annotated[
        bool,
        typer.Option("--inverse", help="Write the transform from the moving to the fixed image."),
    ] = False,
    affine_only: Annotated[
        bool, typer.Option("--affine-only", help="Omit the displacement field.")
    ] = False,
    memory_limit: MemoryLimit = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert a transform to or from the format of another program.

    Pixel sizes and units come from the transform file or from the images. ITK's files are in
    millimetres, the others in the images' own units.
    """
    from napari_busref.transforms.formats import read_transform, write_transform
    from napari_busref.transforms.transform import EXTENSION

    refuse_existing([output], overwrite)
    try:
        found = read_transform(transform, fixed=_grid(fixed), moving=_grid(moving))
        if inverse:
            found = _inverse(found)
        own = output.name.lower().endswith(EXTENSION)
        path = write_transform(
            output,
            found.transform,
            fixed=found.fixed,
            moving=found.moving,
            metadata=found.metadata,
            affine_only=affine_only,
            planes=found.planes if own else None,
        )
    except ModuleNotFoundError as error:
        if error.name not in _OPTIONAL_PACKAGES:
            raise
        fail(one_line(error))
    if found.planes and not own:
        log.warning(
            f"{path.name} holds the transform of the displayed plane; {transform.name} has "
            f"{len(found.planes)} planes"
        )
    out().print(escape(str(path)))


def _grid(image: Path | None) -> ImageGrid | None:
    if image is None:
        return None
    from napari_busref.images.io import read_plane
    from napari_busref.transforms.formats import ImageGrid

    return ImageGrid.from_image(read_plane(image))


def _inverse(found: TransformFile) -> TransformFile:
    """Invert a transform; quality and other measurements of the forward one are dropped."""
    from napari_busref.transforms.formats import TransformFile

    names = {"fixed": "moving", "moving": "fixed"}
    metadata = {new: found.metadata[old] for new, old in names.items() if old in found.metadata}
    planes = {position: _inverse(one) for position, one in found.planes.items()}
    return TransformFile(found.transform.inverse(), found.moving, found.fixed, metadata, planes)
