"""What helps a registration: an initial transform, landmarks, and masks of both images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_busref.data.pairing import Pair, image_files
from napari_busref.images.uri import holds_images

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_busref.images.io import ImageFile
    from napari_busref.transforms.transform import Transform

__all__ = ["Hints", "load", "read_mask"]

_LANDMARKS = (".csv", ".points")


@dataclass(frozen=True)
class Hints:
    """The files that help to register pairs, as given on the command line.

    Attributes
    ----------
    initial : Path, optional
        Transform file, for all pairs.
    landmarks : Path, optional
        File for all pairs, or a folder with one for each. It excludes `initial`.
    fixed_mask, moving_mask : Path, optional
        Image for all pairs, or a folder with one for each.
    """

    initial: Path | None
    landmarks: Path | None
    fixed_mask: Path | None
    moving_mask: Path | None

    def __post_init__(self) -> None:
        if self.initial is not None and self.landmarks is not None:
            raise ValueError("--landmarks: got --initial, too; need one of them to start from")
        for name in ("landmarks", "fixed_mask", "moving_mask"):
            path = getattr(self, name)
            if path is not None and not path.exists():
                raise FileNotFoundError(f"{_flag(name)}: no such file or folder: {path}")

    def of(self, pair: Pair, fixed: ImageFile, moving: ImageFile) -> dict[str, Any]:
        """Read what belongs to a pair, as arguments of `napari_busref.register`.

        Raises
        ------
        FileNotFoundError
            When a folder has no file for this pair.
        ValueError
            When a file is damaged or does not fit.
        """
        found: dict[str, Any] = {"initial": load(self.initial)}
        if self.landmarks is not None:
            path = _landmark_file(self.landmarks, pair)
            found["initial"] = _read_landmarks(path, fixed, moving)
        for side in ("fixed", "moving"):
            name = f"{side}_mask"
            path = getattr(self, name)
            if path is not None:
                found[name] = read_mask(path, name, [getattr(pair, side).stem])
        return found


def load(path: Path | None) -> Transform | None:
    """Read a transform file, if one is given."""
    if path is None:
        return None
    from napari_busref.transforms.transform import Transform

    return Transform.load(path)


def find_mask(path: Path, name: str, stems: Sequence[str]) -> Path:
    """Return the file of a mask.

    Parameters
    ----------
    path : Path
        An image, or a folder where it is STEM_mask or STEM.
    name : str
        Of the option, for errors.
    stems : sequence of str

    Raises
    ------
    FileNotFoundError
        When the folder holds no such file.
    """
    if not holds_images(path):
        return path
    files = image_files(path, _flag(name))
    names = [each for stem in stems for each in (f"{stem}_mask", stem)]
    found = next((files[each] for each in names if each in files), None)
    if found is None:
        raise FileNotFoundError(f"{_flag(name)}: neither {' nor '.join(names)} in {path}")
    return found


def read_mask(path: Path, name: str, stems: Sequence[str]) -> NDArray[np.bool_]:
    """Read a mask: True where its image is above 0; parameters as of `find_mask`.

    Raises
    ------
    FileNotFoundError
        When the folder holds no such file.
    ValueError
        When it is no grey image.
    """
    import numpy as np

    from napari_busref.images.io import read_image

    path = find_mask(path, name, stems)
    data = np.ma.filled(read_image(path).data, 0)
    if data.ndim != 2:
        raise ValueError(f"{_flag(name)}: {path} has shape {data.shape}, need a grey image")
    return np.asarray(data > 0)


def _landmark_file(path: Path, pair: Pair) -> Path:
    if not path.is_dir():
        return path
    stems = dict.fromkeys([pair.name, pair.moving.stem, pair.fixed.stem])
    candidates = [path / f"{stem}{suffix}" for stem in stems for suffix in _LANDMARKS]
    found = next((each for each in candidates if each.is_file()), None)
    if found is None:
        names = " or ".join(f"{stem}.csv" for stem in stems)
        raise FileNotFoundError(f"--landmarks: no {names} (or .points) in {path}")
    return found


def _read_landmarks(path: Path, fixed: ImageFile, moving: ImageFile) -> tuple[Any, Any]:
    """Read landmarks that determine an affine."""
    from napari_busref.transforms.formats import ImageGrid
    from napari_busref.transforms.formats.landmark_files import read_landmarks
    from napari_busref.transforms.transform import Transform

    grids = ImageGrid.from_image(fixed), ImageGrid.from_image(moving)
    try:
        points = read_landmarks(path, *grids)
        Transform.from_points(*points, fixed_shape=grids[0].shape, moving_shape=grids[1].shape)
    except ValueError as error:
        text = str(error).removeprefix("path: ").removeprefix(str(path)).lstrip(": ")
        raise ValueError(f"--landmarks: {path}: {text}") from None
    return points


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
