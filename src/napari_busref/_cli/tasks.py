"""What `register`, `run` and `fuse` do with a pair, as objects that travel to workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from napari_busref._cli.hints import Hints, find_mask, load, read_mask
from napari_busref._cli.reading import Reading
from napari_busref.batch.files import write_json
from napari_busref.batch.results import ResultWriter, is_unread, unit_of
from napari_busref.batch.run import results_of, run_files, write_large_fusion
from napari_busref.runtime.file_safety import memory_limited

if TYPE_CHECKING:
    from napari_busref.data.pairing import Pair
    from napari_busref.images.io import ImageFile
    from napari_busref.runtime.progress import Progress

__all__ = ["FuseTask", "RegisterTask", "Task"]


@dataclass(frozen=True)
class Task(ABC):
    """What one command does with a pair.

    Attributes
    ----------
    writer : ResultWriter
    reading : Reading
    options : dict
        Of the function in Python.
    memory_limit : float, optional
        In GiB; the context of the command line does not travel.
    """

    writer: ResultWriter
    reading: Reading
    options: dict[str, Any]
    memory_limit: float | None

    @property
    @abstractmethod
    def suffixes(self) -> tuple[str, ...]:
        """What the names of results have after the stem."""

    @property
    @abstractmethod
    def models(self) -> dict[str, str | None]:
        """The models by their kind."""

    def in_tiles(self, pair: Pair) -> bool:
        """Whether the pair is registered in tiles, which workers may share."""
        return False

    def absolute(self) -> Task:
        """The same task with an absolute folder, for processes that run elsewhere."""
        folder = self.writer.folder.absolute()
        return replace(self, writer=replace(self.writer, folder=folder))

    def __call__(
        self, pair: Pair, progress: Progress | None = None, cancel: Event | None = None
    ) -> Mapping[str, Any]:
        """Process a pair, write its files and return its report."""
        with memory_limited(self.memory_limit):
            return self._process(pair, progress, cancel)

    @abstractmethod
    def _process(
        self, pair: Pair, progress: Progress | None, cancel: Event | None
    ) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class RegisterTask(Task):
    """Register, and fuse where asked.

    Attributes
    ----------
    hints : Hints
    fuse, ignore_map : bool
    """

    hints: Hints
    fuse: bool
    ignore_map: bool

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What the names of results have after the stem."""
        return results_of(self.fuse)

    @property
    def models(self) -> dict[str, str | None]:
        """The models by their kind."""
        return {"registration": self.options["model"], "fusion": self.options.get("fusion_model")}

    def in_tiles(self, pair: Pair) -> bool:
        """Whether the pair is registered in tiles, which workers may share."""
        with memory_limited(self.memory_limit):
            return is_unread(self.reading.pair(pair.fixed, pair.moving)[0])

    def absolute(self) -> Task:
        """The same task with absolute paths."""
        paths = {name: path and path.absolute() for name, path in vars(self.hints).items()}
        return replace(super().absolute(), hints=Hints(**paths))  # type: ignore[call-arg]

    def _process(
        self, pair: Pair, progress: Progress | None, cancel: Event | None
    ) -> Mapping[str, Any]:
        files = self.reading.pair(pair.fixed, pair.moving)
        given = self.options | self.hints.of(pair, *files)
        if self.fuse:
            given |= {"unit": unit_of(files[1], given["unit"])}
        return run_files(
            self.writer,
            pair,
            files,
            given,
            fuse=self.fuse,
            ignore_map=self.ignore_map,
            progress=progress,
            cancel=cancel,
        )


@dataclass(frozen=True)
class FuseTask(Task):
    """Fuse two images of one grid.

    Attributes
    ----------
    transform : Path, optional
        Transform file for all pairs.
    mask : Path, optional
        Image, or a folder of them.
    """

    transform: Path | None
    mask: Path | None

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What the names of results have after the stem."""
        return ("_fused", self.writer.report_name)

    @property
    def models(self) -> dict[str, str | None]:
        """The models by their kind."""
        return {"fusion": self.options["model"]}

    def absolute(self) -> Task:
        """The same task with absolute paths."""
        paths = {name: (path := getattr(self, name)) and path.absolute() for name in _FILES}
        return replace(super().absolute(), **paths)

    def _process(
        self, pair: Pair, progress: Progress | None, cancel: Event | None
    ) -> Mapping[str, Any]:
        from napari_busref.fusion import fuse

        fixed, moving = self.reading.pair(pair.fixed, pair.moving)
        if is_unread(fixed) or is_unread(moving):
            return self._process_large(pair, fixed, moving, progress, cancel)
        result = fuse(
            fixed.data,
            moving.data,
            transform=load(self.transform),
            mask=None if self.mask is None else read_mask(self.mask, "mask", [pair.name]),
            progress=progress,
            cancel=cancel,
            **(self.options | {"unit": unit_of(moving, self.options["unit"])}),
        )
        report = {
            "fixed": pair.fixed,
            "moving": pair.moving,
            "outputs": {"fused": self.writer.image(pair, fixed, "fused", result.fused)},
            "timings": result.timings,
            "parameters": result.parameters,
            "options": self.writer.all_options(),
        }
        write_json(self.writer.folder / f"{pair.name}{self.writer.report_name}", report)
        return report

    def _process_large(
        self,
        pair: Pair,
        fixed: ImageFile,
        moving: ImageFile,
        progress: Progress | None,
        cancel: Event | None,
    ) -> Mapping[str, Any]:
        """Fuse images that are read by windows."""
        mask = None if self.mask is None else find_mask(self.mask, "mask", [pair.name])
        options = {"fusion_model": self.options["model"], **self.options}
        how = {"device": self.options["device"], "progress": progress, "cancel": cancel}
        pictures = fixed.data, moving.data, mask
        more = {"transform": load(self.transform), "precision": self.options["precision"]}
        path = write_large_fusion(self.writer, pair, pictures, options, how, **more)
        report = {
            "fixed": pair.fixed,
            "moving": pair.moving,
            "outputs": {"fused": path},
            "parameters": {"function": "write_fused"},
            "options": self.writer.all_options(),
        }
        write_json(self.writer.folder / f"{pair.name}{self.writer.report_name}", report)
        return report


_FILES = ("transform", "mask")
