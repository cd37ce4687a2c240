"""The manifest of an output folder: an append-only log of runs and pairs, and the lock."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_busref.batch.files import plain
from napari_busref.runtime import version

if TYPE_CHECKING:
    from napari_busref.batch.scheduling import Shard
    from napari_busref.data.pairing import Pair

__all__ = ["Manifest", "is_current", "last_events", "weights_of", "worker_name"]

_PACKAGES = ("torch", "numpy", "scipy", "kornia", "tifffile")


class Manifest:
    """Writes events, one line of JSON each, to ``manifest.jsonl`` of a folder.

    A shard writes to ``manifest-IofN.jsonl``, because shards run at the same time.

    Parameters
    ----------
    folder : Path
    shard : Shard, optional
    report : str
        What the name of a report has after the stem: `fuse` may follow `register` in a folder.

    Attributes
    ----------
    shard : Shard or None
    report : str
    """

    def __init__(
        self, folder: Path, shard: Shard | None = None, report: str = "_report.json"
    ) -> None:
        self.report = report
        self.shard = shard
        part = "" if shard is None else f"-{shard.label}"
        self._path = folder / f"manifest{part}.jsonl"
        self._run = ""

    def begin(self, options: Mapping[str, Any], weights: Mapping[str, str], pairs: int) -> None:
        """Record what a run depends on: options, weights, versions, command and computer."""
        now = time.time()
        self._run = hashlib.sha256(f"{now} {worker_name()}".encode()).hexdigest()[:12]
        self._append(
            {
                "event": "run",
                "command": sys.argv,
                "options": options,
                "weights": weights,
                "versions": {name: version.package_version(name) for name in _PACKAGES}
                | {"python": platform.python_version()},
                "pairs": pairs,
            }
        )

    def add(
        self, pair: Pair, row: Mapping[str, str], outputs: Mapping[str, Any], worker: str
    ) -> None:
        """Record what became of a pair.

        Parameters
        ----------
        pair : Pair
        row : mapping
            Of the summary.
        outputs : mapping
            Paths of the results, by name.
        worker : str
            Of `worker_name`.
        """
        paths = [Path(path) for path in outputs.values()]
        self._append(
            {
                "event": "failed" if row["status"] == "failed" else "done",
                "pair": pair.name,
                "report": self.report,
                "inputs": _inputs(pair),
                "outputs": {path.name: path.stat().st_size for path in paths if path.exists()},
                "row": row,
                "worker": worker,
            }
        )

    def _append(self, event: Mapping[str, Any]) -> None:
        stamped = {"time": time.time(), "run": self._run, **plain(event)}
        line = json.dumps(stamped, ensure_ascii=True) + "\n"
        with self._path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    line = "\n" + line  # a process that was killed has left half a line
            file.write(line.encode("ascii"))


def last_events(folder: Path, report: str = "_report.json") -> dict[str, dict[str, Any]]:
    """Read the last event of each pair with such a report, from the manifests of all shards.

    Half a line, which a killed process leaves, does not count.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("manifest*.jsonl")):
        for line in path.read_text("utf-8", errors="replace").splitlines():
            try:
                event = json.loads(line)
                name, when = event.get("pair"), float(event["time"])
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue
            if event.get("report") != report or not isinstance(name, str):
                continue
            if when >= found.get(name, {"time": 0.0})["time"]:
                found[name] = event
    return found


def is_current(event: Mapping[str, Any], pair: Pair, folder: Path) -> bool:
    """Whether a pair is done, its files are the same, and its results are whole.

    Files are compared by size and time of change, results by size.
    """
    outputs = event.get("outputs")
    if event.get("event") != "done" or not isinstance(outputs, dict):
        return False
    try:
        whole = all((folder / name).stat().st_size == size for name, size in outputs.items())
    except OSError:
        return False
    return whole and event.get("inputs") == plain(_inputs(pair))


def weights_of(models: Mapping[str, str | None]) -> dict[str, str]:
    """The hashes of the weights of models, by name; empty for a model without weights.

    Parameters
    ----------
    models : mapping
        From a kind to a name, a path or None.

    Raises
    ------
    ValueError
        When there is no such model.
    """
    from napari_busref.models.registry import describe_weights

    return {name: describe_weights(name, kind) for kind, name in models.items() if name}


def worker_name() -> str:
    """Name the computer and the process."""
    return f"{platform.node()}:{os.getpid()}"


def _inputs(pair: Pair) -> dict[str, Any]:
    """What identifies the files of a pair."""
    found: dict[str, Any] = {}
    for side in ("fixed", "moving"):
        path: Path = getattr(pair, side)
        try:
            status = path.stat()
        except OSError:
            found[side] = {"name": path.name}
            continue
        found[side] = {"name": path.name, "size": status.st_size, "changed": status.st_mtime_ns}
    return found
