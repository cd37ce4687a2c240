"""The folder of a fine-tuning: its plan, its pairs and its progress.

``finetune.json`` is the plan, and ``pairs.npz`` holds the reduced pairs. One folder for each kind
of model holds the checkpoint, the log and finally ``result.json``. A training can therefore resume
anywhere, without the original images.

Needs no torch.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from napari_busref.models.user_folder import data_folder
from napari_busref.training.finetuning.pairs import PreparedPair

__all__ = [
    "CHECKPOINT",
    "RESULT",
    "Plan",
    "discard_finetuning",
    "is_unfinished",
    "logged_losses",
    "open_kinds",
    "read_pairs",
    "read_plan",
    "trainings_folder",
    "unfinished_finetunings",
    "write_plan",
]

CHECKPOINT, RESULT = "checkpoint.ckpt", "result.json"
"""Names of the files in the folder of a kind."""

_PLAN, _PAIRS = "finetune.json", "pairs.npz"


@dataclass(frozen=True)
class Plan:
    """Settings of a training.

    Attributes
    ----------
    name : str
        Of the training.
    models : dict
        Kind to base model.
    names : dict
        Kind to name of the result.
    source : str
        Origin of the pairs, for the card.
    pairs, held_out : tuple of str
        Names of the training pairs and of the held-out ones.
    steps, batch, learning_rate
        Of all kinds; None for the kind's default.
    seed : int
    preview_every : int
        Steps between two measurements.
    """

    name: str
    models: dict[str, str]
    names: dict[str, str]
    source: str
    pairs: tuple[str, ...]
    held_out: tuple[str, ...]
    steps: int
    batch: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    preview_every: int = 50


def trainings_folder() -> Path:
    """Default folder of trainings."""
    return data_folder() / "trainings"


def write_plan(folder: Path, plan: Plan, pairs: Sequence[PreparedPair]) -> None:
    """Write a new training, and discard one that the folder holds.

    Parameters
    ----------
    folder : Path
    plan : Plan
    pairs : sequence of PreparedPair
        The training pairs, then the held-out ones.
    """
    if (folder / _PLAN).is_file():
        discard_finetuning(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for number, pair in enumerate(pairs):
        # half precision resolves more than 8 bits, in half the size of float32
        arrays[f"fixed_{number}"] = pair.fixed.astype(np.float16)
        arrays[f"moving_{number}"] = pair.moving.astype(np.float16)
    np.savez(folder / _PAIRS, **arrays)  # type: ignore[arg-type]
    (folder / _PLAN).write_text(json.dumps(asdict(plan), indent=1) + "\n", "utf-8")


def read_pairs(folder: Path, plan: Plan) -> tuple[list[PreparedPair], list[PreparedPair]]:
    """Read the training pairs and the held-out ones.

    Raises
    ------
    ValueError
        If they cannot be read.
    """
    names = [*plan.pairs, *plan.held_out]
    try:
        with np.load(folder / _PAIRS) as arrays:
            pairs = [
                PreparedPair(
                    name,
                    arrays[f"fixed_{number}"].astype(np.float32),
                    arrays[f"moving_{number}"].astype(np.float32),
                )
                for number, name in enumerate(names)
            ]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"output: the pairs in {folder} cannot be read ({error})") from None
    return pairs[: len(plan.pairs)], pairs[len(plan.pairs) :]


def open_kinds(folder: Path, plan: Plan) -> list[str]:
    """Kinds of model whose training is not finished."""
    return [kind for kind in plan.models if not (folder / kind / RESULT).is_file()]


def unfinished_finetunings(folder: str | Path | None = None) -> list[Path]:
    """Folders of the trainings that can resume, the latest first.

    Parameters
    ----------
    folder : path, optional
        Parent folder; `trainings_folder` by default.
    """
    plans = (trainings_folder() if folder is None else Path(folder)).glob(f"*/{_PLAN}")
    found = sorted(plans, key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent for path in found if is_unfinished(path.parent)]


def is_unfinished(folder: str | Path) -> bool:
    """Whether a folder holds a training that can resume."""
    try:
        plan = read_plan(folder)
    except ValueError:
        return False
    return (Path(folder) / _PAIRS).is_file() and bool(open_kinds(Path(folder), plan))


def read_plan(folder: str | Path) -> Plan:
    """Read the plan of a training.

    Raises
    ------
    ValueError
        If the folder holds no training.
    """
    path = Path(folder) / _PLAN
    try:
        content = json.loads(path.read_text("utf-8"))
        return Plan(**{**content, **{key: tuple(content[key]) for key in ("pairs", "held_out")}})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"output: {folder} holds no training that can be read ({error})"
        ) from None


def discard_finetuning(folder: str | Path) -> None:
    """Delete a training: its checkpoints, its log and its copy of the pairs.

    Other files in the folder and the resulting models remain.
    """
    plan = read_plan(folder)
    for kind in plan.models:
        shutil.rmtree(Path(folder) / kind, ignore_errors=True)
    for name in (_PAIRS, _PLAN):
        (Path(folder) / name).unlink(missing_ok=True)
    if not any(Path(folder).iterdir()):
        Path(folder).rmdir()


def logged_losses(folder: str | Path, kind: str) -> list[tuple[int, float]]:
    """Step and loss of all logged steps, in order."""
    losses: dict[int, float] = {}
    logs = sorted(
        (Path(folder) / kind / "logs").glob("version_*/metrics.csv"),
        key=lambda path: int(path.parent.name.partition("_")[2]),
    )
    for path in logs:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if row.get("loss"):
                    losses[int(row["step"])] = float(row["loss"])
    return sorted(losses.items())
