"""Pairs of folders without a terminal or a window."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from napari_busref.batch.results import ResultWriter, fill_value_of
from napari_busref.batch.run import (
    SUMMARY,
    attempt,
    finished_rows,
    process_rows,
    results_of,
    run_files,
)
from napari_busref.data.pairing import Pair, find_pairs
from napari_busref.images.io import ImageFile, read_image, read_plane, write_image
from napari_busref.runtime.progress import Cancelled, Reporter

OPTIONS = {"model": "identity", "device": "cpu"}


def folders(tmp_path: Path, names: list[str]) -> list[Pair]:
    rng = np.random.default_rng(0)
    for folder in ("vis", "ir"):
        (tmp_path / folder).mkdir()
        for name in names:
            write_image(tmp_path / folder / f"{name}.tif", rng.random((40, 48)).astype(np.float32))
    return find_pairs(tmp_path / "vis", tmp_path / "ir")[0]


@pytest.mark.parametrize("fuse", [False, True])
def test_the_results_of_a_pair_are_written(tmp_path: Path, fuse: bool) -> None:
    (pair,) = folders(tmp_path, ["a"])
    writer = ResultWriter(tmp_path)
    stages: list[str] = []
    more = {"fusion_model": "average"} if fuse else {}
    files = read_plane(pair.fixed), read_plane(pair.moving)
    report = run_files(
        writer, pair, files, OPTIONS | more, fuse=fuse, progress=lambda s, _: stages.append(s)
    )
    assert all(writer.existing(pair, results_of(fuse)).values()) and stages
    assert ("fused" in report["outputs"]) == fuse
    np.testing.assert_array_equal(read_image(tmp_path / "a_warped.tif").data, files[1].data)
    assert finished_rows(ResultWriter(tmp_path, resume=True), [pair], results_of(fuse))
    with pytest.raises(FileExistsError, match=r"a_warped\.tif and "):
        finished_rows(writer, [pair], results_of(fuse))


def test_a_failure_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    pairs = folders(tmp_path, ["a", "b", "c"])

    def process(pair: Pair) -> dict[str, str]:
        if pair.name == "b":
            raise ValueError("too\nsmall")
        return {}

    writer = ResultWriter(tmp_path)
    rows = [row for _, row in process_rows(writer, pairs, process, {"c": {"name": "c"}})]
    assert [row.get("status") for row in rows] == [None, "ok", "failed"]
    assert rows[2]["message"] == "too small"
    assert (tmp_path / SUMMARY).read_text().splitlines()[2].startswith("b,failed")
    with pytest.raises(ValueError, match="too"):
        list(process_rows(writer, pairs[1:2], process, {}, several=False))


def test_what_was_done_before_a_cancellation_stays(tmp_path: Path) -> None:
    pairs, cancel = folders(tmp_path, ["a", "b"]), threading.Event()

    def process(pair: Pair) -> dict[str, str]:
        Reporter(None, cancel).check()
        cancel.set()
        return {}

    with pytest.raises(Cancelled):
        list(process_rows(ResultWriter(tmp_path), pairs, process, {}))
    assert [line[:4] for line in (tmp_path / SUMMARY).read_text().splitlines()[1:]] == ["a,ok"]


def test_outside_an_integer_image_is_the_no_data_value_of_its_file() -> None:
    def file(dtype: type, nodata: float | None) -> ImageFile:
        metadata = {} if nodata is None else {"nodata": nodata}
        return ImageFile(np.ones((4, 4), dtype), metadata=metadata)

    assert fill_value_of(file(np.int16, -9999.0), None) == -9999
    assert fill_value_of(file(np.int16, -9999.0), 5.0) == 5
    assert fill_value_of(file(np.int16, None), None) is None  # 0
    assert fill_value_of(file(np.uint8, -9999.0), None) is None  # it cannot hold that
    assert fill_value_of(file(np.float32, -9999.0), None) is None  # NaN


def test_only_errors_that_may_pass_are_tried_again(tmp_path: Path) -> None:
    (pair,) = folders(tmp_path, ["a"])
    calls: list[type] = []

    def process(error: type) -> object:
        def once(pair: Pair) -> dict[str, str]:
            calls.append(error)
            if len(calls) < 3:
                raise error("full")
            return {}

        return attempt(once, pair, retries=2).row["status"]

    assert process(OSError) == "ok" and len(calls) == 3
    calls.clear()
    assert process(ValueError) == "failed" and len(calls) == 1
