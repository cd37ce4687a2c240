"""The commands that work on image pairs: register, fuse, run and apply."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from napari_busref._cli.console import (
    EXIT_SOME_FAILED,
    Bars,
    err,
    interruptible,
    one_line,
    out,
    warning,
)
from napari_busref._cli.files import (
    mask_picture,
    output_folder,
    output_suffix,
    plain,
    refuse_existing,
    write_json,
)
from napari_busref.data.pairing import Pair, find_pairs, image_files
from napari_busref.fusion.tasks import TASKS
from napari_busref.runtime.progress import Cancelled

if TYPE_CHECKING:
    from napari_busref.images.io import ImageFile
    from napari_busref.registration import RegistrationResult
    from napari_busref.transforms.transform import Transform

Format = Literal["tif", "png", "npy"]

Fixed = Annotated[
    Path, typer.Argument(metavar="FIXED", help="Fixed (visible) image, or a folder.")
]
Moving = Annotated[
    Path, typer.Argument(metavar="MOVING", help="Moving (infrared) image, or a folder.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")]
Model = Annotated[
    str, typer.Option(help="Registered model (see `models`) or a .safetensors file.")
]
FusionModel = Annotated[
    str | None,
    typer.Option(help="Fusion model or a .safetensors file (default: that of --task)."),
]
Task = Annotated[str, typer.Option(help=f"What kind of pair to fuse: {', '.join(TASKS)}.")]
Infrared = Annotated[
    float,
    typer.Option(help="What leads in large areas: 0 FIXED, 1 MOVING, 0.5 what the model made."),
]
Detail = Annotated[
    float, typer.Option(help="Fine detail: 0 none, 0.5 what the model made, 1 twice as much.")
]
Search = Annotated[
    Literal["near", "wide", "none"] | None,
    typer.Option(
        help="Look for the place first: near (15°, 0.8 to 1.25, shifts to 30 %), wide (any "
        "rotation, 0.4 to 2.5; slower) or none. Default: near with the model auto, else none.",
    ),
]
Refine = Annotated[
    Literal["dense", "affine", "none"] | None,
    typer.Option(help="Default: dense with the model auto, else none."),
]
Kind = Annotated[
    Literal["affine", "homography"],
    typer.Option("--transform", help="What the refinement fits before the displacement field."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")]
Initial = Annotated[Path | None, typer.Option(help="Transform file (.busref.h5) to start from.")]
WriteFlow = Annotated[
    bool, typer.Option("--flow", help="Also write the displacement field, NPY (2, rows, cols).")
]
FileFormat = Annotated[
    Format | None,
    typer.Option("--format", help="Format of the images written (default: that of FIXED)."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")]


@dataclass
class Job:
    """The options that are the same for every pair of one command."""

    output: Path
    overwrite: bool = False
    file_format: Format | None = None
    flow: bool = False
    initial: Transform | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def register(
    fixed: Fixed,
    moving: Moving,
    output: Output,
    model: Model = "auto",
    search: Search = None,
    refine: Refine = None,
    transform: Kind = "affine",
    device: Device = "auto",
    initial: Initial = None,
    flow: WriteFlow = False,
    file_format: FileFormat = None,
    overwrite: Overwrite = False,
) -> None:
    """Register MOVING to FIXED: write the warped image, the mask, the transform and a report.

    Results start with the stem of MOVING: STEM_warped, STEM_mask, STEM.busref.h5 and
    STEM_report.json. Two folders are paired by stem; a pair that fails is reported at the end
    (exit code 1) and does not stop the others.
    """
    job = Job(output, overwrite, file_format, flow, _initial(initial))

    def work(pair: Pair, bars: Bars, cancel: Event) -> dict[str, Any]:
        from napari_busref.registration import register as register_images

        fixed_file, moving_file = _read(pair)
        result = register_images(
            fixed_file.data,
            moving_file.data,
            model=model,
            search=search,
            refine=refine,
            transform=transform,
            device=device,
            initial=job.initial,
            progress=bars.add(pair.name),
            cancel=cancel,
        )
        paths = _write_registration(job, pair, fixed_file, moving_file, result)
        return _report(job, pair, bars, paths, result)

    _each_pair(job, fixed, moving, ["_warped", "_mask", ".busref.h5", "_report.json"], work)


def run(
    fixed: Fixed,
    moving: Moving,
    output: Output,
    model: Model = "auto",
    search: Search = None,
    refine: Refine = None,
    transform: Kind = "affine",
    fusion_model: FusionModel = None,
    task: Task = "infrared-visible",
    infrared: Infrared = 0.5,
    detail: Detail = 0.5,
    device: Device = "auto",
    initial: Initial = None,
    flow: WriteFlow = False,
    file_format: FileFormat = None,
    overwrite: Overwrite = False,
) -> None:
    """Register MOVING to FIXED and fuse the two: what `register` writes, and STEM_fused."""
    job = Job(output, overwrite, file_format, flow, _initial(initial))

    def work(pair: Pair, bars: Bars, cancel: Event) -> dict[str, Any]:
        from napari_busref.pipeline import register_and_fuse

        fixed_file, moving_file = _read(pair)
        both = register_and_fuse(
            fixed_file.data,
            moving_file.data,
            model=model,
            fusion_model=fusion_model,
            task=task,
            infrared=infrared,
            detail=detail,
            search=search,
            refine=refine,
            transform=transform,
            device=device,
            initial=job.initial,
            progress=bars.add(pair.name),
            cancel=cancel,
        )
        assert both.fusion is not None  # else it was cancelled, which raises
        paths = _write_registration(job, pair, fixed_file, moving_file, both.registration)
        paths["fused"] = _write_image(job, pair, fixed_file, "fused", both.fusion.fused)
        fusion = {"timings": both.fusion.timings, "parameters": both.fusion.parameters}
        return _report(job, pair, bars, paths, both.registration, fusion=fusion)

    suffixes = ["_warped", "_mask", "_fused", ".busref.h5", "_report.json"]
    _each_pair(job, fixed, moving, suffixes, work)


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
    model: FusionModel = None,
    task: Task = "infrared-visible",
    infrared: Infrared = 0.5,
    detail: Detail = 0.5,
    transform: Annotated[
        Path | None,
        typer.Option(
            "--apply", help="Transform file (.busref.h5) to take MOVING to FIXED's grid."
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="Where MOVING has content: a mask image, or a folder of STEM_mask."),
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="What the network computes with.")
    ] = "float32",
    tile: Annotated[
        int | None,
        typer.Option(
            help="Side of tiles in pixels (default: tiles of 1024 above 2.5 megapixels)."
        ),
    ] = None,
    device: Device = "auto",
    file_format: FileFormat = None,
    overwrite: Overwrite = False,
) -> None:
    """Fuse two images of the same grid into STEM_fused; outside the mask FIXED stays as it is."""
    job = Job(output, overwrite, file_format, initial=_initial(transform))

    def work(pair: Pair, bars: Bars, cancel: Event) -> dict[str, Any]:
        from napari_busref.fusion import fuse as fuse_images

        fixed_file, moving_file = _read(pair)
        result = fuse_images(
            fixed_file.data,
            moving_file.data,
            model=model,
            task=task,
            infrared=infrared,
            detail=detail,
            transform=job.initial,
            device=device,
            precision=precision,
            tile="auto" if tile is None else tile,
            mask=None if mask is None else _read_mask(mask, pair),
            progress=bars.add(pair.name),
            cancel=cancel,
        )
        path = _write_image(job, pair, fixed_file, "fused", result.fused)
        bars.result(f"{escape(pair.name)}: {escape(str(path))}")
        return {"outputs": {"fused": path}}

    _each_pair(job, fixed, moving, ["_fused"], work)


def apply(
    transform: Annotated[
        Path, typer.Argument(metavar="TRANSFORM", help="Transform file (.busref.h5).")
    ],
    image: Annotated[
        Path,
        typer.Argument(metavar="IMAGE", help="Image or label image of the moving image's size."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    order: Annotated[
        int,
        typer.Option(min=0, max=5, help="0 nearest pixel (labels), 1 linear, 3 cubic."),
    ] = 1,
    inverse: Annotated[
        bool, typer.Option("--inverse", help="From the fixed grid back to the moving one.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Carry another image, channel or label image through a saved transform."""
    from napari_busref.images.io import check_writable, read_image, write_image
    from napari_busref.transforms.formats import read_transform
    from napari_busref.transforms.formats.grid import METRES
    from napari_busref.transforms.transform import Transform

    refuse_existing([output], overwrite)
    check_writable(output)
    loaded, stored = Transform.load(transform), read_transform(transform)
    if stored.planes:
        err().print(
            warning(
                f"{transform.name} has the transforms of {len(stored.planes)} planes of a stack; "
                "that of the plane that was shown is applied"
            )
        )
    picture = read_image(image)
    if inverse:
        loaded = loaded.inverse()
    grid = stored.metadata.get("moving_image" if inverse else "fixed_image")
    if grid is None:  # napari keeps the grids of both images, and no tags of files
        place = stored.moving if inverse else stored.fixed
        if place.unit in METRES:
            in_cm = 100 * METRES[place.unit]
            grid = {"spacing": [length * in_cm for length in place.spacing], "unit": "cm"}
    write_image(output, loaded.apply(picture.data, order=order), metadata=grid)
    out().print(escape(str(output)))


# -- one pair ----------------------------------------------------------------------------------


def _initial(path: Path | None) -> Transform | None:
    if path is None:
        return None
    from napari_busref.transforms.transform import Transform

    return Transform.load(path)


def _read(pair: Pair) -> tuple[ImageFile, ImageFile]:
    from napari_busref.images.io import read_image

    return read_image(pair.fixed), read_image(pair.moving)


def _read_mask(mask: Path, pair: Pair) -> Any:
    from napari_busref.images.io import read_image

    if mask.is_dir():
        files = image_files(mask, "--mask")
        found = files.get(f"{pair.name}_mask", files.get(pair.name))
        if found is None:
            raise FileNotFoundError(f"--mask: neither {pair.name}_mask nor {pair.name} in {mask}")
        mask = found
    data = read_image(mask).data
    if data.ndim != 2:
        raise ValueError(f"--mask: {mask} has shape {data.shape}, need a grey image")
    return data > 0


def _write_image(job: Job, pair: Pair, fixed: ImageFile, what: str, image: Any) -> Path:
    from napari_busref.images.io import write_image

    suffix = output_suffix(pair.fixed, image, job.file_format)
    if image.dtype == bool:
        image = mask_picture(image, suffix)
    path = job.output / f"{pair.name}_{what}{suffix}"
    refuse_existing([path], job.overwrite)
    write_image(path, image, metadata=fixed.metadata)
    return path


def _write_registration(
    job: Job, pair: Pair, fixed: ImageFile, moving: ImageFile, result: RegistrationResult
) -> dict[str, Path]:
    import numpy as np

    paths = {
        "warped": _write_image(job, pair, fixed, "warped", result.warped),
        "mask": _write_image(job, pair, fixed, "mask", result.mask),
        "transform": job.output / f"{pair.name}.busref.h5",
    }
    metadata = {
        "fixed": pair.fixed.name,
        "moving": pair.moving.name,
        "fixed_image": plain(fixed.metadata),  # `apply` writes the pixel size of the grid
        "moving_image": plain(moving.metadata),
        "quality": plain(result.quality),
        "parameters": plain(result.parameters),
    }
    result.transform.save(paths["transform"], metadata=metadata)
    if job.flow:
        paths["flow"] = job.output / f"{pair.name}_flow.npy"
        np.save(paths["flow"], result.flow, allow_pickle=False)
    return paths


def _report(
    job: Job,
    pair: Pair,
    bars: Bars,
    paths: dict[str, Path],
    result: RegistrationResult,
    **more: Any,
) -> dict[str, Any]:
    """Write the report of a pair and print its summary."""
    report = {
        "fixed": pair.fixed,
        "moving": pair.moving,
        "outputs": paths,
        "quality": result.quality,
        "timings": result.timings,
        "parameters": result.parameters,
        "transform": {
            "affine": result.transform.affine,
            "fixed_shape": result.transform.fixed_shape,
            "moving_shape": result.transform.moving_shape,
        },
        **more,
    }
    path = job.output / f"{pair.name}_report.json"
    write_json(path, report)
    quality = result.quality
    bars.result(
        f"{escape(pair.name)}: quality {quality.score:.2f}, overlap {quality.overlap:.0%}, "
        f"shift {quality.shift_px:.1f} px, rotation {quality.rotation_deg:.1f}°, "
        f"scale {quality.scale:.3f} -> {escape(str(paths['warped']))}"
    )
    if not quality.reliable:
        reasons = "; ".join(quality.reasons)
        bars.note(warning(f"{pair.name}: the registration may be wrong: {reasons}"))
    return report


# -- all pairs ---------------------------------------------------------------------------------

Work = Callable[[Pair, Bars, Event], dict[str, Any]]


def _each_pair(job: Job, fixed: Path, moving: Path, suffixes: list[str], work: Work) -> None:
    """Do `work` for each pair; a single pair may raise, of several each failure is reported."""
    pairs, alone = find_pairs(fixed, moving)
    output_folder(job.output)
    several = fixed.is_dir()
    expected = [path for pair in pairs for path in _existing(job, pair, suffixes)]
    summary = job.output / "summary.csv"
    refuse_existing([*expected, summary] if several else expected, job.overwrite)
    for path in alone:
        err().print(warning(f"{path}: no partner of the same stem, left out"))
    rows: list[dict[str, Any]] = []
    try:
        with interruptible() as cancel, Bars() as bars:
            overall = bars.add("all pairs") if several else None
            for number, pair in enumerate(pairs):
                if overall is not None:
                    overall(f"{number + 1} of {len(pairs)}", number / len(pairs))
                rows.append(_one_pair(pair, bars, cancel, work, may_raise=not several))
    finally:
        if several and rows:  # also of the pairs that were done before Ctrl+C
            _write_summary(summary, rows)
    if several:
        failed = [row["name"] for row in rows if row["status"] == "failed"]
        out().print(f"{len(rows) - len(failed)} of {len(rows)} pairs done, {escape(str(summary))}")
        if failed:
            err().print(f"[red]Failed:[/] {escape(', '.join(failed))}")
            raise typer.Exit(EXIT_SOME_FAILED)


def _one_pair(
    pair: Pair, bars: Bars, cancel: Event, work: Work, *, may_raise: bool
) -> dict[str, Any]:
    """Do `work` for one pair and return its row of the summary."""
    row: dict[str, Any] = {"name": pair.name}
    start = time.perf_counter()
    try:
        quality = work(pair, bars, cancel).get("quality")
    except Cancelled:
        raise
    except Exception as error:
        if may_raise:
            raise
        bars.note(f"[red]{escape(pair.name)} failed:[/] {escape(one_line(error))}")
        row |= {"status": "failed", "message": one_line(error)}
    else:
        row["status"] = "ok" if quality is None or quality.reliable else "doubtful"
        if quality is not None:
            row |= {"score": f"{quality.score:.4f}", "overlap": f"{quality.overlap:.4f}"}
            row["message"] = "; ".join(quality.reasons)
    return row | {"seconds": f"{time.perf_counter() - start:.2f}"}


def _existing(job: Job, pair: Pair, suffixes: list[str]) -> list[Path]:
    """Results of this pair that are there already, whatever their image format."""
    names = suffixes + (["_flow.npy"] if job.flow else [])
    found: list[Path] = []
    for name in names:
        extensions = [""] if "." in name else [".tif", ".tiff", ".png", ".npy"]
        candidates = (job.output / f"{pair.name}{name}{extension}" for extension in extensions)
        found += [path for path in candidates if path.exists()]
    return found


def _write_summary(path: Path, rows: list[dict[str, Any]]) -> None:
    fields = ["name", "status", "score", "overlap", "seconds", "message"]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fields)
        writer.writeheader()
        writer.writerows(rows)
