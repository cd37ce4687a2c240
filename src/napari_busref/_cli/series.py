"""Register a series of frames, for the command line: ``--axis``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_busref._cli.console import Bars, escape, interruptible, log
from napari_busref._cli.options import DEFAULTS
from napari_busref._cli.pairs import Workers
from napari_busref._cli.tasks import RegisterTask
from napari_busref.batch.files import output_folder
from napari_busref.batch.run import finished_rows
from napari_busref.data.pairing import Pair
from napari_busref.images.uri import stem

_AXES = ("t", "z")
_FUSION = (
    *("task", "infrared", "detail", "style", "palette", "opacity", "above", "below"),
    *("scale_bar", "unit", "device", "nodata"),
)
_SHOWN = 5  # gaps that a warning names


def _check_axis(value: str | None) -> str | None:
    if value is not None and value not in _AXES:
        raise ValueError(f"--axis: got {value}, need {' or '.join(_AXES)}")
    return value


Axis = Annotated[
    str | None,
    typer.Option(
        "--axis",
        metavar=f"<{'|'.join(_AXES)}>",
        callback=_check_axis,
        help="Register every frame of a series along this axis: MOVING is a stack or a folder of "
        "frames, FIXED one image or as many frames.",
    ),
]


def process_series(
    task: RegisterTask, fixed: Path, moving: Path, axis: str, workers: Workers
) -> None:
    """Register a series, fuse it if the task says so, and write its results.

    Parameters
    ----------
    task : RegisterTask
    fixed, moving : Path
        Files, or folders with a frame in each file.
    axis : str
        ``"t"`` or ``"z"``.
    workers : Workers
    """
    from napari_busref.batch.series import run_series, series_results
    from napari_busref.images.frames import Frames

    writer = task.writer
    refused = {
        "--page": task.reading.page,
        "--flow": writer.flow,
        "--map-files": writer.map_files,
        "--shard": workers.shard,
        "--finest": task.options["finest"] != DEFAULTS["finest"],
    }
    for option, given in refused.items():
        if given:
            raise ValueError(f"{option}: got --axis, too; a series does not have it")
    files = task.reading.series(fixed, moving, axis, task.memory_limit)
    pair = Pair(stem(moving) or moving.resolve().name, fixed, moving)
    output_folder(writer.folder)
    if finished_rows(writer, [pair], series_results(task.fuse), several=False):
        log.info(f"{pair.name} is done already and kept")
        return
    first = files[0].first if isinstance(files[0], Frames) else files[0]
    options = task.options | task.hints.of(pair, first, files[1].first)
    fusion = {name: options.pop(name) for name in _FUSION if name in options}
    options |= {name: fusion[name] for name in ("device", "nodata")}
    model = options.pop("fusion_model", None)
    del options["finest"]
    with interruptible() as cancel, Bars() as bars, ExitStack() as stack:
        executor: Any = None
        if workers.scheduler:
            from napari_busref.batch.cluster import connected

            client = connected(workers.scheduler, writer.folder, task.models)
            executor = stack.enter_context(client).get_executor(
                retries=workers.retries, pure=False
            )
        result = run_series(
            writer,
            pair,
            files,
            options,
            fusion | {"model": model} if task.fuse else None,
            executor=executor,
            progress=bars.add(pair.name),
            cancel=cancel,
        )
        good = sum(one.reliable for one in result.qualities)
        path = writer.folder / f"{pair.name}{writer.report_name}"
        text = f"{escape(pair.name)}: {good} of {len(result.qualities)} frames look right"
        bars.result(f"{text} -> {escape(str(path))}", path)
    if result.gaps:
        shown = [str(n + 1) for n in result.gaps][:_SHOWN]
        more = f" and {len(result.gaps) - _SHOWN} more" if len(result.gaps) > _SHOWN else ""
        log.warning(f"{pair.name}: gaps at page {', '.join(shown)}{more}, see the report")
