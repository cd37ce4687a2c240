"""Worker side of the panel "Register folders", and the layers of a result. Needs no Qt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Layer

from napari_busref._napari.files.image_reader import read_images
from napari_busref._napari.files.transform_io import get_reader
from napari_busref.batch.files import output_folder
from napari_busref.batch.manifest import Manifest, weights_of
from napari_busref.batch.results import ResultWriter
from napari_busref.batch.run import finished_rows, process_rows, results_of, run_files
from napari_busref.data.pairing import Pair, find_pairs
from napari_busref.images.io import read_plane
from napari_busref.runtime.holding import held
from napari_busref.runtime.progress import Progress, Reporter

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FolderRequest", "FolderResult", "opened_layers", "run_folders"]


@dataclass(frozen=True)
class FolderRequest:
    """Two folders to register.

    Parameters
    ----------
    fixed, moving, output : Path
        Folders; `output` is made.
    match : str
        How to pair the files, see `napari_busref.data.pairing.find_pairs`.
    resume, overwrite : bool
        Keep the results of finished pairs, or replace all; neither refuses earlier results.
    fuse : bool
    options : mapping
        Of `napari_busref.register_and_fuse`; without fusion of `napari_busref.register`.
    """

    fixed: Path
    moving: Path
    output: Path
    match: str = "name"
    resume: bool = False
    overwrite: bool = False
    fuse: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def models(self) -> dict[str, str | None]:
        """The models by their kind."""
        fusion = self.options.get("fusion_model") if self.fuse else None
        return {"registration": self.options.get("model", "auto"), "fusion": fusion}


@dataclass(frozen=True)
class FolderResult:
    """What became of two folders.

    Attributes
    ----------
    rows : list of (Pair, dict)
        Each pair and its row of the summary.
    alone : list of Path
        Images without a partner.
    """

    rows: list[tuple[Pair, dict[str, str]]]
    alone: list[Path]


def run_folders(
    request: FolderRequest,
    on_row: Callable[[Pair, dict[str, str]], None],
    *,
    progress: Progress,
    cancel: threading.Event,
) -> FolderResult:
    """Register and fuse the pairs of two folders, as the command ``run`` does.

    Parameters
    ----------
    request : FolderRequest
    on_row : callable
        Called with each pair and its row, in this thread.
    progress : Progress
    cancel : threading.Event

    Raises
    ------
    ValueError, OSError
        When the folders do not pair, or the results cannot be written.
    Cancelled
        When `cancel` was set; what was done by then stays.
    """
    reporter = Reporter(progress, cancel)
    reporter.step("pairing the files", 0.0)
    pairs, alone = find_pairs(request.fixed, request.moving, request.match)
    output_folder(request.output)
    known = {name: value for name, value in request.options.items() if name != "device"}
    writer = ResultWriter(request.output, request.overwrite, resume=request.resume, options=known)
    names = [pair.name for pair in pairs]

    def process(pair: Pair) -> Mapping[str, Any]:
        number = names.index(pair.name)
        part = reporter.part(number / len(pairs), (number + 1) / len(pairs))

        def step(stage: str, fraction: float) -> None:
            part.step(f"{number + 1} of {len(pairs)}, {pair.name}: {stage}", fraction)

        step("reading", 0.0)
        files = read_plane(pair.fixed), read_plane(pair.moving)
        return run_files(
            writer, pair, files, request.options, fuse=request.fuse, progress=step, cancel=cancel
        )

    rows = []
    with held(request.output):
        done = finished_rows(writer, pairs, results_of(request.fuse))
        manifest = Manifest(request.output)
        manifest.begin(writer.all_options(), weights_of(request.models), len(pairs))
        for pair, row in process_rows(writer, pairs, process, done, manifest=manifest):
            rows.append((pair, row))
            on_row(pair, row)
    return FolderResult(rows, alone)


def opened_layers(pair: Pair, folder: Path) -> list[Layer]:
    """Read the images of a pair and its results as layers, in no viewer yet.

    Parameters
    ----------
    pair : Pair
    folder : Path
        Of the results.

    Returns
    -------
    list of Layer
        The fixed and the moving image, the warped image, the displacement and the fused image.
        Only the last image is visible.

    Raises
    ------
    FileNotFoundError
        When the pair has no results.
    """
    writer = ResultWriter(folder)
    found = writer.existing(pair, results_of(fuse=True))
    images = [paths[0] for name in ("_warped", "_fused") if (paths := found[name])]
    if not images:
        raise FileNotFoundError(f"{pair.name}: no results in {folder}")
    layers = [
        layer
        for path in (pair.fixed, pair.moving, *images)
        for layer in _created(read_images, path)
    ]
    for transform in found[".busref.h5"]:
        reader = get_reader(str(transform))
        layers[-1:-1] = [] if reader is None else _created(reader, transform)
    for layer in layers:
        layer.visible = layer is layers[-1]
    return layers


def _created(reader: Callable[[str], Sequence[Any]], path: Path) -> list[Layer]:
    return [Layer.create(*data) for data in reader(str(path))]
