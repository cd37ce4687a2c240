"""The log of a batch: what it records, and who may write to a folder."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_busref import write_image
from napari_busref.batch.manifest import Manifest, is_current, last_events
from napari_busref.batch.scheduling import check_scheduler, parse_shard
from napari_busref.data.pairing import Pair
from napari_busref.runtime.holding import held


def test_the_last_event_of_a_pair_counts(tmp_path: Path) -> None:
    pairs = []
    for name in "ab":
        path = write_image(tmp_path / f"{name}.tif", np.zeros((4, 4), np.uint8))
        pairs.append(Pair(name, path, path))
    result = write_image(tmp_path / "a_warped.tif", np.zeros((4, 4), np.uint8))
    manifest = Manifest(tmp_path)
    manifest.begin({"model": "identity"}, {"identity": ""}, 2)
    manifest.add(pairs[0], {"name": "a", "status": "failed"}, {}, "here:1")
    manifest.add(pairs[0], {"name": "a", "status": "ok"}, {"warped": result}, "here:1")
    path = tmp_path / "manifest.jsonl"
    with path.open("a") as file:
        file.write('{"event": "done", "pair": "b", "ti')  # killed
    Manifest(tmp_path).add(pairs[1], {"name": "b", "status": "failed"}, {}, "here:2")
    run, *events = [json.loads(line) for line in path.read_text().splitlines() if "time" in line]
    assert run["options"] == {"model": "identity"} and run["versions"]["torch"]
    assert [event["event"] for event in events] == ["failed", "done", "failed"]
    found = last_events(tmp_path)
    assert found["a"]["outputs"] == {"a_warped.tif": result.stat().st_size}
    assert is_current(found["a"], pairs[0], tmp_path)
    assert not is_current(found["b"], pairs[1], tmp_path)  # it failed
    assert last_events(tmp_path, "_fusion.json") == {}  # of another command
    os.utime(pairs[0].fixed, ns=(0, 0))
    assert not is_current(found["a"], pairs[0], tmp_path)  # another file
    pairs[0].fixed.unlink()
    assert not is_current(found["a"], pairs[0], tmp_path)


def test_one_run_holds_a_folder(tmp_path: Path) -> None:
    this = f"process {os.getpid()} of "
    with held(tmp_path), pytest.raises(BlockingIOError, match=this), held(tmp_path, "1of2"):
        pass
    with held(tmp_path, "1of2"), held(tmp_path, "2of2"):
        for other in ("all", "1of3"):
            with pytest.raises(BlockingIOError), held(tmp_path, other):
                pass
    assert list(tmp_path.iterdir()) == []
    for lock, age in ((".napari-busref-gone-1-lock-all", 200), (_dead(), 0)):
        (tmp_path / lock).mkdir()
        os.utime(tmp_path / lock, (time.time() - age,) * 2)
    with held(tmp_path):
        pass
    (tmp_path / ".napari-busref-elsewhere-1-lock-all").mkdir()
    with pytest.raises(BlockingIOError, match="process 1 of elsewhere"), held(tmp_path):
        pass


def _dead() -> str:
    """The lock of a process of this computer that has ended."""
    from napari_busref.runtime.atomic_write import process_name

    return process_name().replace(f"-{os.getpid()}-", "-99999999-") + "lock-all"


def test_shards_divide_the_pairs() -> None:
    pairs = [Pair(str(i), Path("a"), Path("b")) for i in range(5)]
    parts = [parse_shard(f"{i}/3").of(pairs) for i in (1, 2, 3)]
    assert [[pair.name for pair in part] for part in parts] == [["0", "3"], ["1", "4"], ["2"]]
    for wrong in ("0/3", "4/3", "1", "a/b", "-1/2"):
        with pytest.raises(ValueError, match="--shard: got"):
            parse_shard(wrong)


@pytest.mark.parametrize("value", ["local", "local:4", "tcp://a:8786", "tls://a:1", "a/b.json"])
def test_kinds_of_schedulers(value: str) -> None:
    assert check_scheduler(value) == value


@pytest.mark.parametrize("value", ["local:0", "local:", "localhost:8786", "8"])
def test_other_schedulers_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="--scheduler: got"):
        check_scheduler(value)


@pytest.mark.slow
def test_a_pair_whose_worker_died_is_tried_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    from napari_busref.batch.cluster import connected, on_cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    pairs = [Pair(name, Path(name), Path(name)) for name in ("killer", "other")]

    def process(pair: Pair) -> dict[str, object]:
        marker = tmp_path / pair.name
        if pair.name == "killer" and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), 9)
        return {}

    with connected("local:1", tmp_path, {"registration": "identity"}) as client:
        execute = on_cluster(client, process, 0, threading.Event())
        found = [(pair.name, outcome.row["status"]) for pair, outcome in execute(pairs)]
    assert found == [("other", "ok"), ("killer", "ok")]


@pytest.mark.slow
def test_tiles_outlive_a_worker_and_end_when_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    from napari_busref.batch.cluster import connected, tiles_on
    from napari_busref.registration.tiles import Tile
    from napari_busref.runtime.progress import Cancelled

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    here = os.getpid()

    def fit(tile: Tile) -> object:
        """Give the place of a tile; the second one kills its first worker."""
        assert os.getpid() != here
        place, marker = tile.core[0].start, tmp_path / "killed"
        if (place == 1 and not marker.exists()) or place == 9:
            marker.touch()
            os.kill(os.getpid(), 9)
        return place

    def tiles(*places: int) -> list[Tile]:
        source: Any = None
        return [Tile(source, source, source, 1, (slice(n, n + 1),) * 2) for n in places]

    cancel = threading.Event()
    with connected("local:1", tmp_path, {"registration": "identity"}) as client:
        run = tiles_on(client, 0, cancel)
        assert list(run(fit, tiles(0, 1, 2))) == [0, 1, 2]
        with pytest.raises(RuntimeError, match="a tile failed: its worker died"):
            list(run(fit, tiles(9)))
        found = run(fit, tiles(3, 4, 5))
        assert next(iter(found)) == 3
        cancel.set()
        with pytest.raises(Cancelled):
            list(found)
