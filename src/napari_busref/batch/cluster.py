"""Process pairs, or the tiles of a pair, on workers of dask.distributed."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

from napari_busref.batch.manifest import weights_of
from napari_busref.batch.run import Outcome, ProcessPair, attempt
from napari_busref.batch.scheduling import LOCAL
from napari_busref.runtime import version
from napari_busref.runtime.errors import one_line
from napari_busref.runtime.progress import Cancelled

if TYPE_CHECKING:
    from distributed import Client

    from napari_busref.data.pairing import Pair
    from napari_busref.registration.tile_levels import Run
    from napari_busref.registration.tiles import Tile, TileFit
    from napari_busref.transforms.transform import Window

__all__ = ["connected", "on_cluster", "tiles_on"]

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

_Item = TypeVar("_Item")

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

    def submit(pair: Pair) -> Any:
        return client.submit(_work, process, _absolute(pair), retries, pure=False)

    def execute(pairs: Sequence[Pair]) -> Iterator[tuple[Pair, Outcome]]:
        told: set[str] = set()
        for pair, future in _each(client, submit, pairs, retries, cancel):
            yield pair, _result(pair, future, told)

    return execute


def tiles_on(client: Client, retries: int, cancel: Event) -> Run:
    """Make what `napari_busref.registration.tile_levels.tiles_by` takes.

    Parameters
    ----------
    client : distributed.Client
        From `connected`.
    retries : int
        How often a tile is tried again alone after an error, or after its worker died; once at
        least.
    cancel : threading.Event
        Ends it with `Cancelled`.
    """

    def run(
        fit: Callable[[Tile], TileFit | None], tiles: Iterable[Tile]
    ) -> Iterator[TileFit | None]:
        given = list(tiles)
        shared: list[Any] = []  # images and transform travel once

        def submit(number: int) -> Any:
            if not shared or shared[0].status != "finished":  # all workers that had it died
                shared[:] = [client.scatter(given[0], broadcast=True, hash=False)]
            return client.submit(_fit, fit, shared[0], given[number].core, pure=False)

        ready: dict[int, TileFit | None] = {}
        following = 0
        for number, future in _each(client, submit, range(len(given)), retries, cancel):
            ready[number] = _tile_fit(future)
            while following in ready:
                yield ready.pop(following)
                following += 1

    return run


def _fit(fit: Callable[[Tile], TileFit | None], tile: Tile, core: Window) -> TileFit | None:
    """Fit another part of a tile's level on a worker."""
    _use_one_thread()
    return fit(replace(tile, core=core))


def _tile_fit(future: Any) -> TileFit | None:
    try:
        found: TileFit | None = future.result()
    except Exception as error:
        raise RuntimeError(f"a tile failed: {_reason(error)}") from error
    return found


def _each(
    client: Client,
    submit: Callable[[_Item], Any],
    items: Sequence[_Item],
    retries: int,
    cancel: Event,
) -> Iterator[tuple[_Item, Any]]:
    """Submit all items, and yield each with its ended future; those of dead workers come last."""
    lost = []
    for item, future in _completed(client, submit, items, cancel):
        if future.status == "finished":
            yield item, future
        else:
            lost.append(item)
    # dask blames all that a dead worker had: alone, only the guilty one fails
    for item in lost:
        for left in reversed(range(retries + 1)):
            ((_, future),) = _completed(client, submit, [item], cancel)
            if future.status == "finished" or not left:
                yield item, future
                break


def _completed(
    client: Client, submit: Callable[[_Item], Any], items: Sequence[_Item], cancel: Event
) -> Iterator[tuple[_Item, Any]]:
    """Submit items, never more than there are workers, and yield each with its ended future."""
    waiting, ended = deque(items), SimpleQueue[Any]()
    running: dict[Any, _Item] = {}
    try:
        while waiting or running:
            free = max(sum(client.ncores().values()), 1) - len(running) if waiting else 0
            for _ in range(min(free, len(waiting))):
                item = waiting.popleft()
                future = submit(item)
                running[future] = item
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
        row = {"name": pair.name, "status": "failed", "message": _reason(error)}
        return Outcome(row, {}, "")
    for level, text in notes:
        if text not in told:
            told.add(text)
            _log.log(level, text)
    return outcome


def _reason(error: Exception) -> str:
    return "its worker died" if type(error).__name__ == "KilledWorker" else one_line(error)


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
    _use_one_thread()
    notes = _Notes()
    propagate = _log.propagate
    _log.addHandler(notes)
    _log.propagate = False
    try:
        return attempt(process, pair, retries=retries), notes.notes
    finally:
        _log.removeHandler(notes)
        _log.propagate = propagate


def _use_one_thread() -> None:
    os.environ.update({key: str(value) for key, value in _THREADS.items()})
    if "torch" in sys.modules:  # else it reads the environment when it is imported
        sys.modules["torch"].set_num_threads(1)
