"""Command-line options that the scripts share, the number of threads, and the machine."""

# Imports here must not load numpy: the number of threads is set first.
from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

DataRoot = Annotated[
    Path | None, typer.Option(help="Folder of the data sets (default: ../shared/data).")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first pairs.")]
Seeds = Annotated[str, typer.Option(help="Seeds of the warps, with commas.")]
Split = Annotated[str, typer.Option(help="Split of the data sets.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of every library.")]


def parse_seeds(seeds: str) -> list[int]:
    """Integers, separated by commas or spaces."""
    return [int(seed) for seed in seeds.replace(",", " ").split()]


def check_known(option: str, names: Iterable[str] | None, known: Iterable[str]) -> None:
    """Refuse a name that an option does not know.

    Raises
    ------
    ValueError
        With the known names.
    """
    if unknown := set(names or ()) - set(known):
        raise ValueError(f"{option}: need some of {', '.join(known)}, got {min(unknown)!r}")


def data_folder(data_root: Path | None) -> Path:
    """The given folder of the data sets, or ``../shared/data``.

    Raises
    ------
    ValueError
        When neither exists.
    """
    from napari_busref.data.datasets import default_root

    root = data_root or default_root()
    if root is None:
        raise ValueError("--data-root: required, there is no ../shared/data beside this checkout")
    return root


def chosen_data(
    option: str, names: Iterable[str] | None, known: Iterable[str], data_root: Path | None
) -> Path:
    """The folder of the data sets, once the names of an option are known.

    Raises
    ------
    typer.BadParameter
        Of `check_known` and `data_folder`.
    """
    try:
        check_known(option, names, known)
        return data_folder(data_root)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def set_threads(threads: int) -> None:
    """Set the number of threads of every library, and the seeds of ANTs and OpenCV.

    Call this before the libraries are imported.
    """
    for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    os.environ["ANTS_RANDOM_SEED"] = "1"
    import torch

    torch.set_num_threads(threads)
    from peers import PEERS

    if PEERS["sift"].missing() is None:
        import cv2

        cv2.setNumThreads(threads)
        cv2.setRNGSeed(1)


def provenance(threads: int) -> dict[str, Any]:
    """Number of threads, commit and machine, for every row of a table."""
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        processor = names[0] if names else processor
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "threads": threads,
        "commit": described.stdout.strip() or "unknown",
        "machine": f"{platform.system()}, {processor}, {os.cpu_count()} cores",
    }
