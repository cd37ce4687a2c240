"""Process pairs on workers of dask.distributed, here or of a running scheduler."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event
from typing import TYPE_CHECKING, Any

from napari_busref.batch.manifest import weights_of
from napari_busref.batch.run import Outcome, ProcessPair, attempt
from napari_busref.batch.scheduling import LOCAL
from napari_busref.runtime import version
from napari_busref.runtime.errors import one_line
from napari_busref.runtime.progress import Cancelled

if TYPE_CHECKING:
    from distributed import Client

    from napari_busref.data.pairing import Pair

__all__ = ["connected", "on_cluster"]

_TIMEOUT = 15  # s until a scheduler must answer, and have a worker
_PERIOD = 0.1  # s between two looks for a cancellation
# dask's nanny trims the heap at 64 KiB, which costs half of the CPU time in system calls.
_MEMORY = {"MALLOC_TRIM_THRESHOLD_": 2**30, "MALLOC_MMAP_THRESHOLD_": 2**30}
# Its clocks of 10 and 20 ms take 7 % of a core in the client and in each worker.
_QUIET = {
    "distributed.admin.tick.interval": "1s",
    "distributed.worker.profile.enabled": False,
}
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), 1)

_log = logging.getLogger("napari_busref")


@contextmanager
def connected(scheduler: str, folder: Path, models: Mapping[str, str | None]) -> Iterator[Client]:
    """Start workers on this computer, or connect to a scheduler, and check its workers.

    Parameters
    ----------
    scheduler : str
        As of `napari_busref.batch.scheduling.check_scheduler`. ``local`` starts one worker for
        each core.
    folder : Path
        Of the results; every worker must see it.
    models : mapping
        Of `weights_of`; every worker must have the same weights.

    Raises
    ------
    ModuleNotFoundError
        Without dask.distributed (``napari-busref[cluster]``).
    ValueError, OSError
        When nothing answers, or a worker does not fit.
    """
    try:
        import dask
        import distributed
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--scheduler needs dask.distributed: pip install 'napari-busref[cluster]'",
            name=error.name,
        ) from error
    environment = {key: str(value) for key, value in (_MEMORY | _THREADS).items()}
    settings = {
        "distributed.nanny.pre-spawn-environ": environment,
        "distributed.scheduler.allowed-failures": 0,  # `on_cluster` tries again
        **_QUIET,
    }
    with dask.config.set(settings), _client(distributed, scheduler) as client:
        _check_workers(client, scheduler, folder, models)
        link = client.dashboard_link if importlib.util.find_spec("bokeh") else ""
        _log.info(f"{len(client.ncores())} workers{f', dashboard: {link}' if link else ''}")
        yield client


@contextmanager
def _client(distributed: Any, scheduler: str) -> Iterator[Client]:
    if scheduler.split(":")[0] == LOCAL and "://" not in scheduler:
        from napari_busref.runtime.threads import allowed_cores

        count = int(scheduler.partition(":")[2] or allowed_cores())
        with (
            distributed.LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                processes=True,
                dashboard_address=":0",  # 8787 may be that of another run
                silence_logs=logging.CRITICAL,
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client
        return
    file = scheduler if scheduler.endswith(".json") else None
    if file is not None and not Path(file).is_file():
        raise FileNotFoundError(f"--scheduler: no such file: {file}")
    try:
        client = distributed.Client(
            None if file else scheduler, scheduler_file=file, timeout=_TIMEOUT
        )
    except (OSError, ValueError, TimeoutError) as error:
        raise ValueError(
            f"--scheduler: nothing answers at {scheduler} within {_TIMEOUT} s"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_TIMEOUT)
        except TimeoutError:
            raise ValueError(
                f"--scheduler: {scheduler} has no worker after {_TIMEOUT} s; start dask worker "
                "--nthreads 1"
            ) from None
        yield client


def _check_workers(
    client: Client, scheduler: str, folder: Path, models: Mapping[str, str | None]
) -> None:
    """Refuse workers that would give other results, or none."""
    here = version.package_version(), weights_of(models)
    try:
        found = client.run(_describe, str(folder.absolute()), dict(models))
    except Exception as error:  # a worker without this package raises anything
        raise ValueError(
            f"--scheduler: a worker of {scheduler} cannot load napari-busref: {one_line(error)}"
        ) from error
    for address, (its_version, weights, sees, threads) in found.items():
        worker = f"--scheduler: worker {address}"
        if its_version != here[0]:
            raise ValueError(f"{worker} has napari-busref {its_version}, need {here[0]}")
        if weights != here[1]:
            raise ValueError(f"{worker} has other models ({weights}, need {here[1]})")
        if not sees:
            raise ValueError(f"{worker} does not see the folder {folder.absolute()}")
        if threads > 1:
            raise ValueError(f"{worker} has {threads} threads, need dask worker --nthreads 1")


def _describe(
    folder: str, models: Mapping[str, str | None], dask_worker: Any = None
) -> tuple[str, Any, bool, int]:
    """Describe a worker, which dask gives: version, weights, sight of the folder, threads."""
    try:
        weights: Any = weights_of(models)
    except ValueError as error:
        weights = one_line(error)
    sees = Path(folder).is_dir()
    return version.package_version(), weights, sees, dask_worker.state.nthreads


def on_cluster(
    client: Client, process: ProcessPair, retries: int, cancel: Event
) -> Callable[[Sequence[Pair]], Iterator[tuple[Pair, Outcome]]]:
    """Make what `process_rows` calls with the pairs to process; they come as they are done.

    Parameters
    ----------
    client : distributed.Client
        From `connected`.
    process : callable
        As of `process_rows`; it is pickled.
    retries : int
        How often a pair is tried again after an error that is not of its files, or alone after
        its worker died.
    cancel : threading.Event
        Ends it with `Cancelled`.
    """

    def execute(pairs: Sequence[Pair]) -> Iterator[tuple[Pair, Outcome]]:
        told: set[str] = set()
        lost = []
        for pair, future in _completed(client, process, pairs, retries, cancel):
            if future.status == "finished":
                yield pair, _result(pair, future, told)
            else:
                lost.append(pair)
        # dask blames all pairs that a dead worker had: alone, only the guilty one fails
        for pair in lost:
            for left in reversed(range(retries + 1)):
                ((_, future),) = _completed(client, process, [pair], retries, cancel)
                if future.status == "finished" or not left:
                    yield pair, _result(pair, future, told)
                    break

    return execute


def _completed(
    client: Client, process: ProcessPair, pairs: Sequence[Pair], retries: int, cancel: Event
) -> Iterator[tuple[Pair, Any]]:
    """Submit pairs, never more than there are workers, and yield each with its ended future."""
    waiting, ended = deque(pairs), SimpleQueue[Any]()
    running: dict[Any, Pair] = {}
    try:
        while waiting or running:
            free = max(sum(client.ncores().values()), 1) - len(running) if waiting else 0
            for _ in range(min(free, len(waiting))):
                pair = waiting.popleft()
                future = client.submit(_work, process, _absolute(pair), retries, pure=False)
                running[future] = pair
                future.add_done_callback(ended.put)
            future = _next(ended, cancel)
            yield running.pop(future), future
    finally:
        client.cancel(list(running))


def _next(ended: SimpleQueue[Any], cancel: Event) -> Any:
    """Wait for a future to end, or for a cancellation."""
    while not cancel.is_set():
        try:
            return ended.get(timeout=_PERIOD)
        except Empty:
            continue
    raise Cancelled


def _absolute(pair: Pair) -> Pair:
    return replace(pair, fixed=pair.fixed.absolute(), moving=pair.moving.absolute())


def _result(pair: Pair, future: Any, told: set[str]) -> Outcome:
    """Take the outcome of a pair, and log what its worker logged, each text once."""
    try:
        outcome, notes = future.result()
    except Exception as error:  # the worker died, or could not even begin
        killed = type(error).__name__ == "KilledWorker"
        message = "its worker died" if killed else one_line(error)
        return Outcome({"name": pair.name, "status": "failed", "message": message}, {}, "")
    for level, text in notes:
        if text not in told:
            told.add(text)
            _log.log(level, text)
    return outcome


class _Notes(logging.Handler):
    """Collects what a worker logs, for the terminal of the client."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.notes: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        self.notes.append((record.levelno, record.getMessage()))


def _work(process: ProcessPair, pair: Pair, retries: int) -> tuple[Outcome, list[tuple[int, str]]]:
    """Process a pair on a worker, with one thread."""
    os.environ.update({key: str(value) for key, value in _THREADS.items()})
    if "torch" in sys.modules:  # else it reads the environment when it is imported
        sys.modules["torch"].set_num_threads(1)
    notes = _Notes()
    propagate = _log.propagate
    _log.addHandler(notes)
    _log.propagate = False
    try:
        return attempt(process, pair, retries=retries), notes.notes
    finally:
        _log.removeHandler(notes)
        _log.propagate = propagate
