"""Write the results of a pair, and find those of earlier runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_busref.batch.files import (
    mask_picture,
    output_suffix,
    plain,
    refuse_existing,
    write_json,
)
from napari_busref.batch.maps import MAP_FILES, write_map_files
from napari_busref.data.pairing import Pair
from napari_busref.runtime import version
from napari_busref.runtime.atomic_write import replacing

if TYPE_CHECKING:
    from napari_busref.images.io import ImageFile
    from napari_busref.registration import RegistrationResult

__all__ = [
    "REGISTERED",
    "ResultWriter",
    "fill_value_of",
    "is_unread",
    "quality_row",
    "record",
    "unit_of",
]

#: What the names of the results of a registration have after the stem.
REGISTERED = ("_warped", "_mask", ".busref.h5", "_report.json")


@dataclass(frozen=True)
class ResultWriter:
    """Writes the results of pairs into one folder.

    Attributes
    ----------
    folder : Path
    overwrite : bool
        Replace existing results.
    file_format : str, optional
        Extension of the images; by default that of the fixed image, where it fits.
    flow : bool
        Also write the flow of each registration.
    map_files : bool
        Also write files for GIS.
    resume : bool
        Keep the results of finished pairs, and replace those of others.
    options : dict
        What the results depend on, for the reports. `finished` compares it.
    report_name : str
        What the name of a report has after the stem.
    """

    folder: Path
    overwrite: bool = False
    file_format: str | None = None
    flow: bool = False
    map_files: bool = False
    resume: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    report_name: str = "_report.json"

    def existing(self, pair: Pair, suffixes: Sequence[str]) -> dict[str, list[Path]]:
        """Find results of this pair that exist already, whatever their image format.

        Parameters
        ----------
        pair : Pair
        suffixes : sequence of str
            What the names of results have after the stem.

        Returns
        -------
        dict
            From each suffix to its files.
        """
        found: dict[str, list[Path]] = {}
        more = [*(["_flow.npy"] if self.flow else []), *(MAP_FILES if self.map_files else [])]
        for name in [*suffixes, *more]:
            extensions = [""] if "." in name else [".tif", ".tiff", ".png", ".npy", ".ome.zarr"]
            candidates = (self.folder / f"{pair.name}{name}{each}" for each in extensions)
            found[name] = [path for path in candidates if path.exists()]
        return found

    def finished(self, pair: Pair, suffixes: Sequence[str]) -> dict[str, str] | None:
        """Return the row of the summary of a finished pair, None for an unfinished one.

        The report is written last. A pair without a whole one is unfinished.

        Raises
        ------
        FileExistsError
            When the results are those of other images, options or versions.
        """
        existing = self.existing(pair, suffixes)
        if not all(existing.values()):
            return None
        path = existing[self.report_name][0]
        row = {"status": "ok"}
        try:
            report = json.loads(path.read_text("utf-8"))
            made_of = [Path(report[name]).name for name in ("fixed", "moving")]
            before = dict(report["options"])
            if quality := report.get("quality"):
                score, overlap = (float(quality[name] or 0) for name in ("score", "overlap"))
                row = quality_row(score, overlap, [str(one) for one in quality["reasons"]])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        if made_of != [pair.fixed.name, pair.moving.name]:
            raise FileExistsError(
                f"--resume: {path} holds the results of {' and '.join(made_of)}, not of "
                f"{pair.fixed.name} and {pair.moving.name}; choose another --output"
            )
        changes = [
            f"{name} {before.get(name)} and not {value}"
            for name, value in self.all_options().items()
            if before.get(name) != value
        ]
        if changes:
            raise FileExistsError(
                f"--resume: {path} was made with {', '.join(changes)}; repeat the options of that "
                "run, choose another --output, or replace all with --overwrite"
            )
        return {"name": pair.name} | row

    def all_options(self) -> dict[str, Any]:
        """What the results depend on, as JSON has it: the options and the version."""
        options = {
            "version": version.package_version(),
            "format": self.file_format,
            **self.options,
        }
        return dict(json.loads(json.dumps(plain(options))))

    def image(self, pair: Pair, fixed: ImageFile, what: str, image: Any) -> Path:
        """Write an image on the grid of the fixed one, with its pixel size."""
        from napari_busref.images.io import write_image

        suffix = output_suffix(pair.fixed, image, self.file_format)
        if image.dtype == bool:
            image = mask_picture(image, suffix)
        path = self.folder / f"{pair.name}_{what}{suffix}"
        refuse_existing([path], self.overwrite or self.resume)
        write_image(path, image, metadata=fixed.metadata, cloud=self.file_format == "cog")
        return path

    def registration(
        self,
        pair: Pair,
        fixed: ImageFile,
        moving: ImageFile,
        result: RegistrationResult,
        options: Mapping[str, Any] | None = None,
    ) -> dict[str, Path]:
        """Write warped image, mask, transform and flow; return their paths by name.

        Of large images that are not read, warped image and mask are written block by block.
        `options` then holds ``fill_value``, ``progress`` and ``cancel``.
        """
        missing = result.parameters.get("missing_value", moving.metadata.get("nodata"))
        paths = {"transform": self.folder / f"{pair.name}.busref.h5"}
        if is_unread(moving) or is_unread(fixed):
            written = self._streamed_registration(pair, fixed, moving, result, options or {})
        else:
            written = {
                "warped": self.image(pair, _on_grid(fixed, missing), "warped", result.warped),
                "mask": self.image(pair, _on_grid(fixed, None), "mask", result.mask),
            }
        paths = written | paths
        metadata = {
            "fixed": pair.fixed.name,
            "moving": pair.moving.name,
            "fixed_image": plain(fixed.metadata),  # `apply` writes the pixel size of the grid
            "moving_image": plain(moving.metadata),
            "quality": plain(result.quality),
            "parameters": plain(result.parameters),
        }
        if self.flow:
            paths["flow"] = self.folder / f"{pair.name}_flow.npy"
        inverse = getattr(result, "inverse", None)
        if inverse is not None:
            paths["inverse"] = self.folder / f"{pair.name}_inverse.busref.h5"
        more = [paths[name] for name in ("transform", "flow", "inverse") if name in paths]
        refuse_existing(more, self.overwrite or self.resume)
        result.transform.save(paths["transform"], metadata=metadata)
        if inverse is not None:
            turned = {
                "fixed": pair.moving.name,
                "moving": pair.fixed.name,
                "fixed_image": metadata["moving_image"],
                "moving_image": metadata["fixed_image"],
            }
            inverse.save(paths["inverse"], metadata=metadata | turned)
        if self.flow:
            import numpy as np

            with replacing(paths["flow"]) as temporary:
                np.save(temporary, result.flow, allow_pickle=False)
        if self.map_files:
            paths |= write_map_files(pair, self.folder, fixed, moving, result.transform)
        return paths

    def streamed(self, pair: Pair, what: str) -> tuple[Path, dict[str, Any]]:
        """Path of an image that is written block by block, and how."""
        import numpy as np

        from napari_busref.images.pyramid import STREAMED

        suffix = output_suffix(pair.fixed, np.empty(0, np.uint8), self.file_format)
        suffix = suffix if suffix in STREAMED else ".tif"
        path = self.folder / f"{pair.name}_{what}{suffix}"
        replaced = self.overwrite or self.resume
        refuse_existing([path], replaced)
        cloud = self.file_format == "cog"
        return path, {"cloud": cloud, "overwrite": replaced, "resume": self.resume}

    def _streamed_registration(
        self,
        pair: Pair,
        fixed: ImageFile,
        moving: ImageFile,
        result: RegistrationResult,
        options: Mapping[str, Any],
    ) -> dict[str, Path]:
        from napari_busref.transforms.streaming import write_mask, write_warped

        common: dict[str, Any] = {name: options.get(name) for name in ("progress", "cancel")}
        common["metadata"] = fixed.metadata
        paths = {}
        path, how = self.streamed(pair, "warped")
        fill = options.get("fill_value")
        paths["warped"] = write_warped(
            path, moving.data, result.transform, fill_value=fill, **common, **how
        )
        path, how = self.streamed(pair, "mask")
        paths["mask"] = write_mask(path, moving.data, result.transform, **common, **how)
        return paths

    def report(
        self, pair: Pair, paths: dict[str, Path], result: RegistrationResult, **more: Any
    ) -> dict[str, Any]:
        """Write the report of a registered pair and return it."""
        report = {
            "fixed": pair.fixed,
            "moving": pair.moving,
            "outputs": paths,
            "quality": result.quality,
            "timings": result.timings,
            "parameters": result.parameters,
            "options": self.all_options(),
            "transform": {
                "affine": result.transform.affine,
                "fixed_shape": result.transform.fixed_shape,
                "moving_shape": result.transform.moving_shape,
            },
            **more,
        }
        write_json(self.folder / f"{pair.name}{self.report_name}", report)
        return report


def is_unread(file: ImageFile) -> bool:
    """Whether the data of a file is a `LargeImage`."""
    from napari_busref.images.large import LargeImage

    return isinstance(file.data, LargeImage)


def quality_row(score: float, overlap: float, reasons: Sequence[str]) -> dict[str, str]:
    """The cells of the summary that a quality fills; any reason makes a pair doubtful."""
    return {
        "status": "doubtful" if reasons else "ok",
        "score": f"{score:.4f}",
        "overlap": f"{overlap:.4f}",
        "message": "; ".join(reasons),
    }


def unit_of(file: ImageFile, unit: str | None) -> str | None:
    """Return the given unit of the values of an image, else that of its file."""
    return unit or file.metadata.get("value_unit")


def fill_value_of(file: ImageFile, given: float | None) -> float | None:
    """Return the value outside a warped image: as given, else the no-data value of its file.

    Floats, and integers with missing pixels, have their own value; None stands for it.
    """
    import numpy as np

    from napari_busref.images.dtypes import checked_fill

    nodata = file.metadata.get("nodata")
    if given is not None or nodata is None or file.data.dtype.kind == "f":
        return given
    if isinstance(file.data, np.ma.MaskedArray):
        return given
    try:
        return checked_fill(float(nodata), file.data.dtype, "nodata")
    except ValueError:  # the type cannot hold it
        return None


def record(
    result: RegistrationResult, fixed: ImageFile, moving: ImageFile, *, on_map: bool = False
) -> None:
    """Add what was taken of the files, and where they lie, to the parameters of a result."""
    taken = {"fixed": fixed.taken, "moving": moving.taken}
    words = {name: text for name, text in taken.items() if text}
    if words:
        result.parameters["taken"] = words
    if on_map:
        result.parameters["initial"] = "map"
        result.parameters["map"] = {"fixed": str(fixed.map_position)}
        result.parameters["map"]["moving"] = str(moving.map_position)


def _on_grid(fixed: ImageFile, nodata: float | None) -> ImageFile:
    """The fixed file's metadata for an image with other missing values, for the writer."""
    metadata = {name: value for name, value in fixed.metadata.items() if name != "nodata"}
    return replace(fixed, metadata=metadata | ({} if nodata is None else {"nodata": nodata}))
