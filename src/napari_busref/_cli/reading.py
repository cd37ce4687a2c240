"""Options that choose what to read of an image file: band, page, channel, no-data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_busref._cli.console import log

if TYPE_CHECKING:
    from napari_busref.images.frames import Frames
    from napari_busref.images.io import ImageFile

_PLANES = ("band", "page", "channel")
_TWO = "One for both images, or FIXED,MOVING, where one may be left out (4, or ,2)."


def _plane_option(name: str, what: str, counted: str = "Counted from 1.") -> Any:
    def check(value: str | None) -> str | None:
        _numbers(value, name)
        return value

    return typer.Option(f"--{name}", metavar="N", help=f"{what}. {counted} {_TWO}", callback=check)


def _check_nodata(value: str | None) -> str | None:
    for part in _parts(value or "auto", "nodata"):
        _value(part)
    return value


Band = Annotated[str | None, _plane_option("band", "Band of a file with several")]
Page = Annotated[
    str | None,
    _plane_option("page", "Page or frame of a file with several (2: visible part of a FLIR JPEG)"),
]
Channel = Annotated[str | None, _plane_option("channel", "Channel of a microscope's file")]
Level = Annotated[
    str | None,
    _plane_option("level", "Level of a pyramid in TIFF or OME-Zarr", "0 is the full resolution."),
]
NoData = Annotated[
    str | None,
    typer.Option(
        "--nodata",
        metavar="<auto|none|VALUE>",
        help="Value of missing pixels. auto: as the file says, and values such as -9999; none: "
        f"all are content. {_TWO} Default: auto.",
        callback=_check_nodata,
    ),
]


@dataclass
class Reading:
    """What to read of the files of a pair.

    Attributes
    ----------
    band, page, channel, nodata, level : str, optional
        As given on the command line.
    windows : bool
        Leave large images unread: their data is then a `LargeImage`.
    """

    band: str | None = None
    page: str | None = None
    channel: str | None = None
    nodata: str | None = None
    level: str | None = None
    windows: bool = False
    _told: set[str] = field(default_factory=set)

    @property
    def nodata_option(self) -> float | str | None:
        """``nodata`` of `napari_busref.register` for what `pair` returns."""
        values = _parts(self.nodata or "auto", "nodata")
        return "auto" if all(part in ("", "auto") for part in values) else None

    def pair(self, fixed: Path, moving: Path) -> tuple[ImageFile, ImageFile]:
        """Read one plane of each file.

        A single number for both leaves a file alone that has nothing to choose from.

        Raises
        ------
        ValueError
            When neither file has such a band, page or channel.
        """
        files = (fixed, moving)
        choices: list[dict[str, int]] = [{}, {}]
        single = {}
        for name in _PLANES:
            numbers = _numbers(getattr(self, name), name)
            if len(numbers) == 1 and numbers[0] is not None:
                single[name] = numbers[0]
            for choice, number in zip(choices, numbers, strict=False):
                if len(numbers) == 2 and number is not None:
                    choice[name] = number
        if single:
            several = [bool(self._read(path, {}, "none").taken) for path in files]
            for choice, needs in zip(choices, several, strict=True):
                if needs or not any(several):
                    choice |= single
        levels = _numbers(self.level, "level") or [0]
        for choice, level in zip(choices, levels * (3 - len(levels)), strict=True):
            choice |= {"level": level or 0}
        nodata = _parts(self.nodata or "auto", "nodata") * 2
        one, other = (
            self._one(path, choice, value, alone=self.nodata_option == "auto")
            for path, choice, value in zip(files, choices, nodata[:2], strict=True)
        )
        return one, other

    def series(
        self, fixed: Path, moving: Path, axis: str, memory_limit: float | None
    ) -> tuple[ImageFile | Frames, Frames]:
        """Find the frames of a series; the fixed file may hold one image for all of them.

        Raises
        ------
        ValueError
            When the moving file has no such axis.
        """
        from napari_busref.images.frames import Frames
        from napari_busref.images.uri import local_path

        nodata = _parts(self.nodata or "auto", "nodata") * 2
        found = []
        for side, path in enumerate((fixed, moving)):
            choice = {}
            for name in ("band", "channel", "level"):
                numbers = _numbers(getattr(self, name), name)
                if numbers and (number := (numbers * 2)[side]) is not None:
                    choice[name] = number
            value: Any = _value(nodata[side])
            place = local_path(path)
            here = path if place is None else place.absolute()
            found.append(Frames(here, axis, choice, value, memory_limit))
        one, several = found
        if one.is_single:
            return self._one(fixed, one.choice, nodata[0], alone=False), several
        return one, several

    def image(self, path: Path) -> ImageFile:
        """Read one plane of one file."""
        choice = self._choice()
        return self._one(path, choice, _parts(self.nodata or "auto", "nodata")[0], alone=False)

    def _choice(self) -> dict[str, int]:
        """What is chosen for one file alone."""
        choice = {}
        for name in (*_PLANES, "level"):
            numbers = _numbers(getattr(self, name), name)
            if len(numbers) == 2:
                raise ValueError(f"--{name}: got {getattr(self, name)}, need one number")
            if numbers and numbers[0] is not None:
                choice[name] = numbers[0]
        return choice

    def _one(self, path: Path, choice: dict[str, int], nodata: str, *, alone: bool) -> ImageFile:
        from dataclasses import replace

        import numpy as np

        from napari_busref.images.preprocess import as_image

        found = self._read(path, choice, nodata)
        if nodata in ("", "auto") and not alone and isinstance(found.data, np.ndarray):
            found = replace(found, data=as_image(found.data, path.name, min_size=1))
        log.debug("%s: %s %s", path.name, found.data.shape, found.data.dtype)
        words = []
        if found.taken and not set(choice) & set(_PLANES):
            words.append(f"took {found.taken}; --band, --page or --channel chooses another")
        words += [found.note] if found.note and "page" not in choice else []
        for text in words:
            if text not in self._told:  # once for a folder
                self._told.add(text)
                log.warning(f"{path.name}: {text}")
        return found

    def _read(self, path: Path, choice: dict[str, int], nodata: str) -> ImageFile:
        """Read a plane, or describe a large one."""
        from napari_busref.images.io import ImageFile
        from napari_busref.images.large import large_image

        if self.windows and not choice.get("level"):
            plain = {name: number for name, number in choice.items() if name != "level"}
            large = large_image(path, **plain, nodata=_value(nodata))
            if large is not None:
                data: Any = large
                return ImageFile(data, dict(large.metadata), large.taken, "", "YXS"[: large.ndim])
        return _read(path, choice, nodata)


def _read(path: Path, choice: dict[str, int], nodata: str) -> ImageFile:
    from napari_busref.images.io import read_plane

    try:
        return read_plane(path, **choice, nodata=_value(nodata))  # type: ignore[arg-type]
    except ValueError as error:
        text = str(error)
        for name in (*_PLANES, "level"):
            if text.startswith(f"{name}: "):
                raise ValueError(f"--{text}") from None
        raise


def _numbers(value: str | None, name: str) -> list[int | None]:
    """One or two numbers; None where one is left out."""
    if value is None:
        return []
    first = 0 if name == "level" else 1
    need = f"--{name}: got {value}, need a whole number from {first}, or two as FIXED,MOVING"
    try:
        numbers = [int(part) if part else None for part in _parts(value, name)]
    except ValueError:
        raise ValueError(need) from None
    given = [number for number in numbers if number is not None]
    if not given or min(given) < first:
        raise ValueError(need)
    return numbers


def _parts(value: str, name: str) -> list[str]:
    parts = [part.strip() for part in value.split(",")]
    if len(parts) > 2:
        raise ValueError(f"--{name}: got {value}, need one, or two as FIXED,MOVING")
    return parts


def _value(text: str) -> float | str | None:
    if text.lower() in ("", "auto"):
        return "auto"
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--nodata: got {text}, need auto, none or a number") from None
