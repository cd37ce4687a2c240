"""Table 3 of BusReF: full, no mask, no bus, no fusion guide, over several seeds.

    python training/ablation.py --output DIR [--paper] [--seeds 0,1,2] [--variants full,...]

Each seed has one warm start by end points (``registration.toml`` without the paper's losses), on
the shipped bus. ``no-bus`` has its own, with a bus that learns from scratch. Every variant
continues from its warm start with ``registration-balanced.toml``, where the paper's losses stand
beside the end points. Its samples lose content (``warp.beyond = 0``), and it differs by its switch
alone. The protocol then measures ``val``.

``--paper`` leaves out our descriptors and votes: features are only concatenated. Runs resume;
finished ones are not repeated, so another budget needs another folder. ``ablation.json`` holds
each seed's scores, and their mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from napari_busref.evaluation import evaluate_registration, summarise
from napari_busref.metrics.registration import standard_deviation
from napari_busref.training import run

RECIPES = Path(__file__).parent / "recipes"
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "no-mask": {"loss.mask": False},
    "no-bus": {"train_bus": True},
    "no-guide": {"loss.guide": 0},
}
SCORES = ("ncc", "mse", "mncc", "mmse", "epe_mean")
DATASETS = ("roadscene", "vis-nir")


def main() -> None:
    """Train and measure every variant and seed, and print the table."""
    options = _parser().parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    table: list[dict[str, Any]] = []
    for name in options.variants.split(","):
        seeds = [_measure(name, int(seed), options) for seed in options.seeds.split(",")]
        table.append({"variant": name, "seeds": seeds, **_spread(seeds)})
        print(name, *(f"{key} {value}" for key, value in _spread(seeds).items()), flush=True)
        (options.output / "ablation.json").write_text(json.dumps(table, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--paper", action="store_true", help="plain concatenation of features")
    parser.add_argument("--warm-steps", type=int, default=3200)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit", type=int, help="only the first pairs of val")
    return parser


def _measure(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Scores of one variant and training seed, by data set and their mean."""
    own_bus = "no-bus" if name == "no-bus" else "bus"
    warm = {"steps": options.warm_steps, "loss.mncc": 0, "loss.guide": 0}
    start = _train("registration.toml", f"warm-{own_bus}", seed, options, warm | _bus(name))
    second = {"steps": options.steps, "start_from": str(start), "warp.beyond": 0.0}
    weights = _train("registration-balanced.toml", name, seed, options, second | VARIANTS[name])
    row: dict[str, Any] = {"seed": seed}
    for dataset in DATASETS:
        measured = evaluate_registration(
            [weights], dataset=dataset, device=options.device, limit=options.limit
        )
        scores = summarise(measured)[0]
        row |= {f"{dataset} {key}": scores[key] for key in SCORES}
    return row | {key: sum(row[f"{name} {key}"] for name in DATASETS) / 2 for key in SCORES}


def _bus(name: str) -> dict[str, Any]:
    return {"train_bus": True} if name == "no-bus" else {}


def _train(
    recipe: str, name: str, seed: int, options: argparse.Namespace, changes: dict[str, Any]
) -> Path:
    """Weights of one run; trained unless they exist."""
    folder = options.output / f"{name}-{seed}"
    weights: Path = folder / "busref.safetensors"
    common = {
        "seed": seed,
        "validate_every": changes["steps"],
        "validation_pairs": 1,  # the protocol measures
        "batch": options.batch,
        "data.crop_side": options.crop,
    }
    if options.paper:
        common |= {"model.matching": False, "loss.matching": 0}
    if not weights.exists():
        run(
            "registration", RECIPES / recipe, output=folder, resume=True, device=options.device,
            overrides=common | changes, progress=_print, gpu=False,
        )  # fmt: skip
    return weights


def _spread(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over training seeds of every score."""
    spread: dict[str, Any] = {}
    for key in seeds[0]:
        if key != "seed":
            values = [row[key] for row in seeds]
            spread[key] = round(sum(values) / len(values), 4)
            spread[f"{key} sd"] = round(standard_deviation(values), 4) if len(values) > 1 else None
    return spread


def _print(stage: str, fraction: float) -> None:
    print(time.strftime("%H:%M:%S"), stage, flush=True)


if __name__ == "__main__":
    main()
