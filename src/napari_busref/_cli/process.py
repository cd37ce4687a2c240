"""The commands that work on image pairs: register, fuse, run and apply."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_busref._cli.console import Bars, escape, interruptible, log, out
from napari_busref._cli.hints import Hints
from napari_busref._cli.options import (
    DEFAULTS,
    Above,
    Below,
    Detail,
    Device,
    FileFormat,
    FillValue,
    Finest,
    Fixed,
    FixedMask,
    FusionModel,
    IgnoreMap,
    Infrared,
    Initial,
    Landmarks,
    MapFiles,
    Match,
    MemoryLimit,
    Mirrored,
    Model,
    Moving,
    MovingMask,
    Opacity,
    Output,
    Overwrite,
    Palette,
    Precision,
    Refine,
    Resume,
    Retries,
    ScaleBar,
    SchedulerOption,
    Search,
    ShardOption,
    Style,
    Task,
    Tile,
    TransformModel,
    Unit,
    WriteFlow,
)
from napari_busref._cli.pairs import Workers, process_pairs
from napari_busref._cli.reading import Band, Channel, Level, NoData, Page, Reading
from napari_busref._cli.series import Axis, process_series
from napari_busref._cli.tasks import FuseTask, RegisterTask
from napari_busref.batch.files import refuse_existing
from napari_busref.batch.results import ResultWriter, fill_value_of

if TYPE_CHECKING:
    from napari_busref.transforms.formats import TransformFile
    from napari_busref.transforms.transform import Transform


def register(
    fixed: Fixed,
    moving: Moving,
    output: Output,
    model: Model = DEFAULTS["model"],
    search: Search = DEFAULTS["search"],
    mirrored: Mirrored = DEFAULTS["mirrored"],
    refine: Refine = DEFAULTS["refine"],
    transform: TransformModel = DEFAULTS["transform"],
    finest: Finest = DEFAULTS["finest"],
    device: Device = DEFAULTS["device"],
    initial: Initial = None,
    landmarks: Landmarks = None,
    fixed_mask: FixedMask = None,
    moving_mask: MovingMask = None,
    band: Band = None,
    page: Page = None,
    channel: Channel = None,
    level: Level = None,
    nodata: NoData = None,
    fill_value: FillValue = DEFAULTS["fill_value"],
    flow: WriteFlow = False,
    map_files: MapFiles = False,
    ignore_map: IgnoreMap = False,
    file_format: FileFormat = None,
    match: Match = "name",
    axis: Axis = None,
    resume: Resume = False,
    scheduler: SchedulerOption = None,
    retries: Retries = 0,
    shard: ShardOption = None,
    memory_limit: MemoryLimit = DEFAULTS["memory_limit"],
    overwrite: Overwrite = False,
) -> None:
    """Register MOVING to FIXED: write the warped image, the mask, the transform and a report.

    Results start with the stem of MOVING: STEM_warped, STEM_mask, STEM.busref.h5 and
    STEM_report.json. The files of two folders are paired by --match; a pair that fails is
    reported at the end (exit code 1) and does not stop the others.
    """
    reading = Reading(band, page, channel, nodata, level, windows=_by_windows(file_format))
    hints = Hints(initial, landmarks, fixed_mask, moving_mask)
    options: dict[str, Any] = {
        "nodata": reading.nodata_option,
        "model": model,
        "search": search,
        "mirrored": mirrored,
        "refine": refine,
        "transform": transform,
        "finest": finest,
        "device": device,
        "fill_value": fill_value,
    }
    known = _known(options, reading, **vars(hints)) | {"ignore_map": ignore_map}
    writer = ResultWriter(output, overwrite, file_format, flow, map_files, resume, known)

    registering = RegisterTask(writer, reading, options, memory_limit, hints, False, ignore_map)
    _process(registering, fixed, moving, match, axis, Workers(scheduler, retries, shard))


def run(
    fixed: Fixed,
    moving: Moving,
    output: Output,
    model: Model = DEFAULTS["model"],
    search: Search = DEFAULTS["search"],
    mirrored: Mirrored = DEFAULTS["mirrored"],
    refine: Refine = DEFAULTS["refine"],
    transform: TransformModel = DEFAULTS["transform"],
    finest: Finest = DEFAULTS["finest"],
    fusion_model: FusionModel = DEFAULTS["fusion_model"],
    task: Task = DEFAULTS["task"],
    infrared: Infrared = DEFAULTS["infrared"],
    detail: Detail = DEFAULTS["detail"],
    style: Style = DEFAULTS["style"],
    palette: Palette = DEFAULTS["palette"],
    opacity: Opacity = DEFAULTS["opacity"],
    above: Above = DEFAULTS["above"],
    below: Below = DEFAULTS["below"],
    scale_bar: ScaleBar = DEFAULTS["scale_bar"],
    unit: Unit = DEFAULTS["unit"],
    device: Device = DEFAULTS["device"],
    initial: Initial = None,
    landmarks: Landmarks = None,
    fixed_mask: FixedMask = None,
    moving_mask: MovingMask = None,
    band: Band = None,
    page: Page = None,
    channel: Channel = None,
    level: Level = None,
    nodata: NoData = None,
    fill_value: FillValue = DEFAULTS["fill_value"],
    flow: WriteFlow = False,
    map_files: MapFiles = False,
    ignore_map: IgnoreMap = False,
    file_format: FileFormat = None,
    match: Match = "name",
    axis: Axis = None,
    resume: Resume = False,
    scheduler: SchedulerOption = None,
    retries: Retries = 0,
    shard: ShardOption = None,
    memory_limit: MemoryLimit = DEFAULTS["memory_limit"],
    overwrite: Overwrite = False,
) -> None:
    """Register MOVING to FIXED and fuse them: the files of `register`, and STEM_fused."""
    reading = Reading(band, page, channel, nodata, level, windows=_by_windows(file_format))
    hints = Hints(initial, landmarks, fixed_mask, moving_mask)
    options: dict[str, Any] = {
        "nodata": reading.nodata_option,
        "model": model,
        "search": search,
        "mirrored": mirrored,
        "refine": refine,
        "transform": transform,
        "finest": finest,
        "fusion_model": fusion_model,
        "task": task,
        "infrared": infrared,
        "detail": detail,
        "style": style,
        "palette": palette,
        "opacity": opacity,
        "above": above,
        "below": below,
        "scale_bar": scale_bar,
        "unit": unit,
        "device": device,
        "fill_value": fill_value,
    }
    known = _known(options, reading, **vars(hints)) | {"ignore_map": ignore_map}
    writer = ResultWriter(output, overwrite, file_format, flow, map_files, resume, known)

    both = RegisterTask(writer, reading, options, memory_limit, hints, True, ignore_map)
    _process(both, fixed, moving, match, axis, Workers(scheduler, retries, shard))


def fuse(
    fixed: Fixed,
    moving: Annotated[
        Path,
        typer.Argument(
            metavar="MOVING",
            help="Infrared image already on FIXED's grid (such as STEM_warped), or a folder.",
        ),
    ],
    output: Output,
    model: FusionModel = DEFAULTS["fusion_model"],
    task: Task = DEFAULTS["task"],
    infrared: Infrared = DEFAULTS["infrared"],
    detail: Detail = DEFAULTS["detail"],
    style: Style = DEFAULTS["style"],
    palette: Palette = DEFAULTS["palette"],
    opacity: Opacity = DEFAULTS["opacity"],
    above: Above = DEFAULTS["above"],
    below: Below = DEFAULTS["below"],
    scale_bar: ScaleBar = DEFAULTS["scale_bar"],
    unit: Unit = DEFAULTS["unit"],
    transform: Annotated[
        Path | None,
        typer.Option(
            "--apply", help="Transform file (.busref.h5) that takes MOVING to FIXED's grid."
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="Where MOVING has content: a mask image, or a folder of STEM_mask."),
    ] = None,
    precision: Precision = DEFAULTS["precision"],
    tile: Tile = None,
    device: Device = DEFAULTS["device"],
    band: Band = None,
    page: Page = None,
    channel: Channel = None,
    level: Level = None,
    nodata: NoData = None,
    file_format: FileFormat = None,
    match: Match = "name",
    resume: Resume = False,
    scheduler: SchedulerOption = None,
    retries: Retries = 0,
    shard: ShardOption = None,
    memory_limit: MemoryLimit = DEFAULTS["memory_limit"],
    overwrite: Overwrite = False,
) -> None:
    """Fuse two images of the same grid into STEM_fused; outside the mask FIXED stays as it is.

    STEM_fusion.json holds the options, timings and versions.
    """
    reading = Reading(band, page, channel, nodata, level, windows=_by_windows(file_format))
    options: dict[str, Any] = {
        "nodata": reading.nodata_option,
        "model": model,
        "task": task,
        "infrared": infrared,
        "detail": detail,
        "style": style,
        "palette": palette,
        "opacity": opacity,
        "above": above,
        "below": below,
        "scale_bar": scale_bar,
        "unit": unit,
        "precision": precision,
        "tile": DEFAULTS["tile"] if tile is None else tile,
        "device": device,
    }
    known = _known(options, reading, transform=transform, mask=mask)
    writer = ResultWriter(
        output,
        overwrite,
        file_format,
        resume=resume,
        options=known,
        report_name="_fusion.json",
    )

    fusing = FuseTask(writer, reading, options, memory_limit, transform, mask)
    process_pairs(fusing, fixed, moving, match, Workers(scheduler, retries, shard))


def apply(
    transform: Annotated[
        Path, typer.Argument(metavar="TRANSFORM", help="Transform file (.busref.h5).")
    ],
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE",
            help="Image or label image of the moving image's size, or a .csv table of points.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    order: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=5,
            help="0 nearest pixel, 1 linear, 3 cubic. Default: 0 for labels, which are whole "
            "numbers of few distinct values, else 1.",
        ),
    ] = None,
    fill_value: FillValue = DEFAULTS["fill_value"],
    inverse: Annotated[
        bool, typer.Option("--inverse", help="From the fixed grid back to the moving one.")
    ] = False,
    band: Band = None,
    page: Page = None,
    channel: Channel = None,
    level: Level = None,
    nodata: NoData = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue what an interrupted run left in FILE.part."),
    ] = False,
    memory_limit: MemoryLimit = DEFAULTS["memory_limit"],
    overwrite: Overwrite = False,
) -> None:
    """Apply a saved transform to another image, channel or label image, or to points.

    OME-Zarr and TIFF above 4096 x 4096 pixels are read, warped and written block by block.

    The points of a table, in pixels (row and col, or y and x), go to the grid where an image
    would go.
    """
    from napari_busref.images.dtypes import checked_fill
    from napari_busref.images.io import write_image
    from napari_busref.images.pyramid import STREAMED
    from napari_busref.images.uri import is_ome_zarr
    from napari_busref.runtime.atomic_write import check_writable
    from napari_busref.transforms.formats import points_csv, read_transform
    from napari_busref.transforms.streaming import write_warped
    from napari_busref.transforms.transform import Transform

    refuse_existing([output], overwrite)
    check_writable(output)
    loaded, stored = Transform.load(transform), read_transform(transform)
    if stored.planes:
        log.warning(
            f"{transform.name} has the transforms of {len(stored.planes)} planes of a stack; "
            "that of the displayed plane is applied"
        )
    if image.suffix.lower() in points_csv.SUFFIXES:
        _apply_to_points(loaded, image, output, inverse)
    else:
        streamed = output.name.lower().endswith(STREAMED)
        picture = Reading(band, page, channel, nodata, level, windows=streamed).image(image)
        large = not hasattr(picture.data, "__array_interface__")
        order = _order(picture.data, order, image.name)
        checked_fill(fill_value, picture.data.dtype, "fill_value")
        if inverse:
            loaded = loaded.inverse()
        fill = fill_value_of(picture, fill_value)
        grid = dict(_grid_metadata(stored, inverse) or {})
        grid.pop("nodata", None)  # that of another image
        if large or is_ome_zarr(output):
            options: dict[str, Any] = {"order": order, "fill_value": fill_value, "metadata": grid}
            options |= {"resume": resume, "overwrite": overwrite}
            with interruptible() as cancel, Bars() as bars:
                bar = bars.add(output.name)
                write_warped(output, picture.data, loaded, progress=bar, cancel=cancel, **options)
        else:
            warped = loaded.apply(picture.data, order=order, cval=fill)
            if fill_value is None and fill is not None:
                grid["nodata"] = fill
            write_image(output, warped, metadata=grid)
    out().print(escape(str(output)))


def _process(
    task: RegisterTask,
    fixed: Path,
    moving: Path,
    match: str,
    axis: str | None,
    workers: Workers,
) -> None:
    """Process pairs, or with an axis the frames of a series."""
    if axis is None:
        process_pairs(task, fixed, moving, match, workers)
    else:
        process_series(task, fixed, moving, axis, workers)


def _apply_to_points(loaded: Transform, points: Path, output: Path, inverse: bool) -> None:
    """Map a table of points from the moving to the fixed image, or back."""
    from napari_busref.transforms.formats import points_csv

    if not points.exists():
        raise FileNotFoundError(f"IMAGE: no such file: {points}")
    if output.suffix.lower() not in points_csv.SUFFIXES:
        raise ValueError(
            f"--output: got {output.name} for a table of points, need "
            f"{' or '.join(points_csv.SUFFIXES)}"
        )
    moved = points_csv.map_points_file(
        points, output, lambda given: loaded.points(given, inverse=not inverse)
    )
    rows, cols = loaded.moving_shape if inverse else loaded.fixed_shape
    inside = ((moved > -0.5) & (moved < [rows - 0.5, cols - 0.5])).all(1)
    if not inside.all():
        target = "moving" if inverse else "fixed"
        log.warning(f"{(~inside).sum()} of {len(moved)} points lie outside the {target} image")


def _order(image: Any, order: int | None, name: str) -> int:
    """The spline order for an image, and a line where labels decide or suffer."""
    from napari_busref.images.labels import count_labels

    if not hasattr(image, "__array_interface__"):  # the middle of a large one
        rows, cols = (slice(max(size // 2 - 256, 0), size // 2 + 256) for size in image.shape[:2])
        image = image[rows, cols]
    count = count_labels(image) if order != 0 else None
    if count is None:
        return 1 if order is None else order
    if order is not None:
        mixes = f"--order {order} mixes labels, --order 0 keeps them"
        log.warning(f"{name} has {count} distinct values, like labels; {mixes}")
        return order
    log.info(
        f"{name} has {count} distinct values and is taken for labels: nearest pixel "
        "(--order 1 interpolates)"
    )
    return 0


def _grid_metadata(stored: TransformFile, inverse: bool) -> dict[str, Any] | None:
    """Pixel size of the target grid, as `write_image` takes it."""
    from napari_busref.transforms.formats.grid import METRES

    metadata: dict[str, Any] | None = stored.metadata.get(
        "moving_image" if inverse else "fixed_image"
    )
    if metadata is None:  # napari stores the grids of both images, and no tags of files
        grid = stored.moving if inverse else stored.fixed
        if grid.unit in METRES:
            in_cm = 100 * METRES[grid.unit]
            return {"spacing": [length * in_cm for length in grid.spacing], "unit": "cm"}
    return metadata


def _by_windows(file_format: str | None) -> bool:
    """Whether images of this format are written block by block."""
    return file_format in (None, "tif", "cog", "ome.zarr")


def _known(options: dict[str, Any], reading: Reading, **paths: Path | None) -> dict[str, Any]:
    """What results depend on: all options but the device, and the content of given files."""
    import hashlib

    chosen = {
        name: getattr(reading, name) for name in ("band", "page", "channel", "nodata", "level")
    }
    known = {name: value for name, value in options.items() if name != "device"} | chosen
    for name, path in paths.items():
        known[name] = path
        if path is not None and path.is_file():
            known[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return known
