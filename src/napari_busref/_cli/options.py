"""Arguments and options that several commands share.

Those of `register` and `fuse` take their help, choices and checks from the table of options.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from napari_busref.batch.scheduling import check_scheduler, check_shard
from napari_busref.data.pairing import check_match
from napari_busref.runtime.file_safety import memory_limited
from napari_busref.runtime.options import OPTIONS, check_choice, check_number

Format = Literal["tif", "png", "npy", "cog", "ome.zarr"]

DEFAULTS = {name: option.default for name, option in OPTIONS.items()}
#: From the `id` of a description to the name of its option in the table.
TABLED: dict[int, str] = {}


def table_option(
    name: str, *declarations: str, note: str = "", callback: Callable[..., Any] | None = None
) -> Any:
    """Describe an option of the command line by its entry in the table.

    Parameters
    ----------
    name : str
        One of `OPTIONS`.
    declarations : str
        Names on the command line, such as ``"--transform"``; by default the parameter's.
    note : str
        A sentence after the help.
    callback : callable, optional
        Instead of the check that the table describes.
    """
    option = OPTIONS[name]
    meanings = [f"{value}: {text}" for value, text in option.choices.items() if text]
    automatic = f"Default: {option.automatic}." if option.automatic else ""
    choices = f"{'; '.join(meanings)}." if meanings else ""
    described = typer.Option(
        *declarations,
        help=" ".join(part for part in (option.help, choices, automatic, note) if part),
        metavar=f"<{'|'.join(option.values)}>"
        if option.values and not option.open_ended
        else None,
        callback=callback or _check(name),
        autocompletion=(lambda: list(option.values)) if option.values else None,
    )
    TABLED[id(described)] = name
    return described


def _check(name: str) -> Callable[[Any], Any] | None:
    """The check of an option when the command line is parsed, before any image is read."""
    option = OPTIONS[name]
    if option.limits is not None:
        optional = option.default is None
        return lambda value: None if optional and value is None else check_number(name, value)
    if not option.values or option.open_ended:
        return None

    def checked(value: Any) -> Any:
        check_choice(name, value)
        return value

    return checked


def _known_palette(value: str) -> str:
    if value != DEFAULTS["palette"]:
        from napari_busref.fusion.styles import palette_colours

        palette_colours(value)
    return value


Fixed = Annotated[
    Path, typer.Argument(metavar="FIXED", help="Fixed (visible) image, or a folder.")
]
Moving = Annotated[
    Path, typer.Argument(metavar="MOVING", help="Moving (infrared) image, or a folder.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")]
_MODEL_NOTE = "A name that `models` lists, or a .safetensors file."
Model = Annotated[str, table_option("model", note=_MODEL_NOTE)]
FusionModel = Annotated[str | None, table_option("fusion_model", note=_MODEL_NOTE)]
Task = Annotated[str, table_option("task")]
Infrared = Annotated[float, table_option("infrared")]
Detail = Annotated[float, table_option("detail")]
Style = Annotated[str, table_option("style")]
Palette = Annotated[str, table_option("palette", callback=_known_palette)]
Opacity = Annotated[float, table_option("opacity")]
Above = Annotated[float | None, table_option("above")]
Below = Annotated[float | None, table_option("below")]
ScaleBar = Annotated[bool, table_option("scale_bar", "--scale-bar")]
Unit = Annotated[str | None, table_option("unit")]
Search = Annotated[str | None, table_option("search")]
Mirrored = Annotated[bool, table_option("mirrored", "--mirrored")]
Refine = Annotated[str | None, table_option("refine")]
Finest = Annotated[str | None, table_option("finest")]
TransformModel = Annotated[str, table_option("transform", "--transform")]
FillValue = Annotated[
    float | None, table_option("fill_value", "--fill-value", note="nan is a number, too.")
]
Device = Annotated[str, table_option("device", note="Also cuda:1 and the like.")]
Precision = Annotated[str, table_option("precision")]
Tile = Annotated[int | None, table_option("tile")]
Initial = Annotated[Path | None, typer.Option(help="Transform file (.busref.h5) to start from.")]
Landmarks = Annotated[
    Path | None,
    typer.Option(
        help="Pairs of points to start from: a .csv of BigWarp or a .points file of QGIS, or a "
        "folder of them by the stems of FIXED or MOVING."
    ),
]
_MASK_HELP = "Where {} has content to compare: an image that is 0 elsewhere, or a folder of them."
FixedMask = Annotated[Path | None, typer.Option(help=_MASK_HELP.format("FIXED"))]
MovingMask = Annotated[Path | None, typer.Option(help=_MASK_HELP.format("MOVING"))]
WriteFlow = Annotated[
    bool,
    typer.Option(
        "--flow", help="Also write the displacement of every fixed pixel, NPY (2, rows, cols)."
    ),
]
FileFormat = Annotated[
    Format | None,
    typer.Option(
        "--format",
        help="Format of the written images (default: that of FIXED). cog: a GeoTIFF with "
        "overviews, .tif. ome.zarr: OME-Zarr 0.5 with levels.",
    ),
]
MapFiles = Annotated[
    bool,
    typer.Option(
        "--map-files",
        help="Also write files for GIS: tie points, displacement, and virtual rasters that place "
        "MOVING on the map.",
    ),
]
IgnoreMap = Annotated[
    bool,
    typer.Option("--ignore-map", help="Do not start where the images lie on the map."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")]
Match = Annotated[
    str,
    typer.Option(
        metavar="<name|order|PATTERN>",
        callback=check_match,
        help="How to pair the files of two folders. name: of the same stem, or of stems that "
        "differ by a word such as _V and _T. order: in the order of their names. PATTERN: two, "
        "such as '*_rgb,*_lwir', or a regular expression with a group, such as '([0-9]+)'.",
    ),
]


def _limit_memory(ctx: typer.Context, value: float | None) -> float | None:
    """Set the limit until the command ends, for all files that it reads."""
    ctx.with_resource(memory_limited(value))
    return value


MemoryLimit = Annotated[
    float | None, table_option("memory_limit", "--memory-limit", callback=_limit_memory)
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="<local[:N]|ADDRESS|FILE.json>",
        callback=check_scheduler,
        help="Process the pairs of folders, or the tiles of a large pair, on workers of "
        "dask.distributed: N here, or those of a running scheduler.",
    ),
]
Retries = Annotated[
    int,
    typer.Option(
        min=0,
        help="How often to try a pair again after an error that is not of its files, or after "
        "its worker died.",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        callback=check_shard,
        help="Process one of N parts of the pairs, such as 2/8. Parts may run at the same time.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Keep the pairs that an interrupted run finished, and do the others."
    ),
]
