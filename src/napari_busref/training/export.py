"""Write trained weights with their card."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from napari_busref.runtime.device import describe
from napari_busref.training.recipe import Recipe
from napari_busref.training.stages.base import Stage


def export(
    stage: Stage,
    recipe: Recipe,
    folder: Path,
    *,
    device: torch.device,
    step: int,
    seconds: float,
    commit: str,
    scores: dict[str, float],
) -> Path:
    """Write ``NAME.safetensors`` (half precision) and ``NAME.json`` for each of its exports.

    Returns
    -------
    Path
        The first weights file; ``load_model`` takes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "data": dict.fromkeys(recipe.data.datasets, "train split"),
        "recipe": dataclasses.asdict(recipe),
        "commit": commit,
        "device": describe(device),
        "torch": version("torch"),
        "package": _package_version(),
        "steps": step,
        "seconds": round(seconds, 1),
        "scores": {name: round(value, 4) for name, value in scores.items()},
    }
    written = [
        _write(folder / f"{name}.safetensors", kind, model, facts)
        for name, (kind, model) in stage.exports().items()
    ]
    return written[0]


def _write(weights: Path, kind: str, model: torch.nn.Module, facts: dict[str, Any]) -> Path:
    state = {
        name: value.detach().half().cpu().contiguous()
        for name, value in model.state_dict().items()
    }
    weights.write_bytes(save(state))  # save_file would make a file that only its owner can read
    card = {
        "name": weights.stem,
        "kind": kind,
        "architecture": type(model).__name__,
        "config": _settings(model),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "parameters": sum(value.numel() for value in state.values()),
        "storage": "float16",
        **facts,
    }
    weights.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")
    return weights


def _settings(model: torch.nn.Module) -> dict[str, Any]:
    settings = getattr(model, "settings", None)
    return dict(settings()) if callable(settings) else {}


def commit() -> str:
    """Commit of the checkout, marked when it holds changes; empty outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.strip()


def _package_version() -> str:
    try:
        return version("napari-busref")
    except PackageNotFoundError:
        return ""
