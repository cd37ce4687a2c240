"""Batches on workers, in shards, and beside other runs."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from napari_busref import load_sample, write_image
from napari_busref._cli.main import app
from napari_busref.runtime.holding import held
from napari_busref.transforms.transform import Transform

FAST = ["--device", "cpu", "--model", "identity"]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def folders(tmp_path: Path, names: str, pixels: int = 32) -> list[Path]:
    sample = load_sample("thermal")
    made = []
    for side in ("vis", "ir"):
        image = sample.fixed if side == "vis" else sample.moving
        (tmp_path / side).mkdir()
        for number, name in enumerate(names):
            crop = image[8 * number : 8 * number + pixels, :pixels]
            write_image(tmp_path / side / f"{name}.png", crop)
        made.append(tmp_path / side)
    return made


def digests(folder: Path) -> dict[str, str]:
    """The images of a folder by their names; other files hold times."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.png")
    }


@pytest.mark.slow
def test_workers_give_the_results_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to the last bit; a damaged pair fails alone, and nothing done is done again."""

    import torch

    pytest.importorskip("distributed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    visible, infrared = folders(tmp_path, "abc", pixels=96)
    (infrared / "b.png").write_bytes(b"damaged")
    models = ["--model", "busref", "--refine", "affine", "--fusion-model", "laplacian"]
    command = ["run", visible, infrared, "--device", "cpu", *models, "-o"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert invoke(*command, tmp_path / "one").exit_code == 1
    finally:
        torch.set_num_threads(threads)
    out = tmp_path / "two"
    result = invoke(*command, out, "--scheduler", "local:2")
    assert result.exit_code == 1, result.output
    assert "2 workers" in result.stderr and "1 of 3 pairs failed: b" in result.stderr
    assert digests(out) == digests(tmp_path / "one") and len(digests(out)) == 6
    events = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert {(event["event"], event.get("pair")) for event in events} == {
        ("run", None),
        ("done", "a"),
        ("done", "c"),
        ("failed", "b"),
    }
    assert all(f":{os.getpid()}" not in event.get("worker", "") for event in events)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("[ac]*")}
    result = invoke(*command, out, "--resume")
    assert "2 of 3 pairs are done already" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in out.glob("[ac]*")} == kept


@pytest.mark.slow
def test_workers_share_the_tiles_of_a_large_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to the last bit to one process with one thread; no tile is fitted here."""
    import torch

    pytest.importorskip("distributed")
    from napari_busref.images import large as large_images
    from napari_busref.registration import large, tile_levels, tiles

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(large_images, "LARGE", 200 * 200)
    monkeypatch.setattr(large, "LARGE", 200 * 200)
    monkeypatch.setattr(large, "_WHOLE", 100)
    monkeypatch.setattr(tile_levels, "SIDE", 128)
    sample = load_sample("thermal")
    write_image(tmp_path / "v.tif", sample.fixed)
    write_image(tmp_path / "i.tif", sample.moving)
    monkeypatch.chdir(tmp_path)
    command = ["register", "v.tif", "i.tif", "--device", "cpu", "-o"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert invoke(*command, "one").exit_code == 0
        monkeypatch.setattr(tiles, "_fitted", None)
        result = invoke(*command, "two", "--scheduler", "local:2")
    finally:
        torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    one, two = (Transform.load(tmp_path / name / "i.busref.h5") for name in ("one", "two"))
    assert one == two and one.spacing == (32, 32)
    report = json.loads((tmp_path / "two" / "i_report.json").read_text())
    assert report["parameters"]["levels"][-1]["tiles"] == 4


def test_shards_share_a_folder_and_a_summary(tmp_path: Path) -> None:
    visible, infrared = folders(tmp_path, "abcde")
    out = tmp_path / "out"
    command = ["register", visible, infrared, "-o", out, *FAST]
    for shard in ("2/2", "1/2"):
        result = invoke(*command, "--shard", shard)
        assert result.exit_code == 0, result.output
    lines = (out / "summary.csv").read_text().splitlines()
    assert [line[:1] for line in lines[1:]] == list("abcde")
    assert len(list(out.glob("manifest-*of2.jsonl"))) == 2
    result = invoke(*command, "--resume", "--shard", "2/2")
    assert "2 of 2 pairs are done already" in result.stderr
    again = infrared / "d.png"
    os.utime(again, ns=(0, 0))
    assert "1 of 2 pairs are done already" in invoke(*command, "--resume", "--shard", "2/2").stderr


def test_a_folder_that_another_run_holds_is_refused(tmp_path: Path) -> None:
    visible, infrared = folders(tmp_path, "a")
    out = tmp_path / "out"
    out.mkdir()
    with held(out):
        result = invoke("register", visible, infrared, "-o", out, *FAST)
    assert result.exit_code == 2
    assert f"--output: another run (process {os.getpid()} of" in result.stderr
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scheduler", "tcp://127.0.0.1:9"], "nothing answers at tcp://127.0.0.1:9"),
        (["--scheduler", "nowhere.json"], "--scheduler: no such file: nowhere.json"),
        (["--scheduler", "8786"], "--scheduler: got 8786, need local, local:N, an address"),
        (["--shard", "3/2"], "--shard: got 3/2, need I/N"),
    ],
)
def test_bad_schedulers_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    cluster = pytest.importorskip("napari_busref.batch.cluster")
    monkeypatch.setattr(cluster, "_TIMEOUT", 0.2)
    visible, infrared = folders(tmp_path, "a")
    result = invoke("register", visible, infrared, "-o", tmp_path / "out", *FAST, *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (("0.0.9", {"identity": ""}, True, 1), "has napari-busref 0.0.9, need"),
        ((None, "there are no weights mine", True, 1), "has other models (there are no"),
        ((None, {"identity": ""}, False, 1), "does not see the folder"),
        ((None, {"identity": ""}, True, 4), "has 4 threads, need dask worker --nthreads 1"),
    ],
)
def test_workers_that_do_not_fit_are_refused(
    tmp_path: Path, described: tuple[object, ...], message: str
) -> None:
    pytest.importorskip("distributed")
    from napari_busref import __version__
    from napari_busref.batch.cluster import _check_workers

    class Client:
        def run(self, *arguments: object) -> dict[str, object]:
            return {"tcp://far:1": (described[0] or __version__, *described[1:])}

    with pytest.raises(ValueError, match="worker tcp://far:1") as caught:
        _check_workers(Client(), "tcp://far:8786", tmp_path, {"registration": "identity"})
    assert message in str(caught.value)


def test_a_pair_of_files_needs_no_scheduler(tmp_path: Path) -> None:
    visible, infrared = (folder / "a.png" for folder in folders(tmp_path, "a"))
    result = invoke(
        "register", visible, infrared, "-o", tmp_path / "out", *FAST, "--scheduler", "local"
    )
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert "--scheduler: got two files, need two folders, or a pair to register whose" in said
