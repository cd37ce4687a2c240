"""Ablations of the paper and of our added terms, at equal budgets.

    python training/ablation.py --output DIR [--steps 400] [--batch 8] [--variants full,...]

Each variant trains the registration stage by the CPU recipe, on the shipped bus and fusion network
and with one seed. The variants share ``--steps`` steps of ``--batch`` crops of ``--crop`` pixels,
and differ only by their switch. The protocol then measures them. Runs resume; finished ones are
not repeated.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from napari_busref.evaluation import evaluate_registration, summarise
from napari_busref.training import run

RECIPE = Path(__file__).parent / "recipes" / "registration.toml"
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "no-mask": {"loss.mask": False},
    "no-bus": {"train_bus": True},
    "no-guide": {"loss.guide": 0},
    "no-matching": {"loss.matching": 0, "model.matching": False},
    "paper-losses": {"loss.matching": 0, "loss.endpoint": 0, "loss.smooth": 0, "loss.mncc": 1.0},
}


def main() -> None:
    """Train and measure every variant, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seeds", default="0")
    options = parser.parse_args()
    table = []
    for name in options.variants.split(","):
        folder = options.output / name
        overrides = {
            "steps": options.steps,
            "validate_every": options.steps,
            "validation_pairs": 1,  # the protocol measures below
            "batch": options.batch,
            "data.crop_side": options.crop,
            **VARIANTS[name],
        }
        weights = folder / "busref.safetensors"
        if not weights.exists():
            run("registration", RECIPE, output=folder, resume=True, device=options.device,
                overrides=overrides, progress=_print, gpu=False)  # fmt: skip
        row: dict[str, Any] = {"variant": name, "steps": options.steps}
        row["seconds"] = json.loads(weights.with_suffix(".json").read_text())["seconds"]
        for dataset in ("roadscene", "vis-nir"):
            scores = summarise(
                evaluate_registration(
                    [weights], dataset=dataset, device=options.device,
                    seeds=[int(seed) for seed in options.seeds.split(",")],
                )
            )[0]  # fmt: skip
            for key in ("epe_mean", "ncc", "mse", "mncc", "mmse"):
                row[f"{dataset} {key}"] = round(scores[key], 3)
        table.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        (options.output / "ablation.json").write_text(json.dumps(table, indent=1) + "\n")


def _print(stage: str, fraction: float) -> None:
    print(time.strftime("%H:%M:%S"), stage, flush=True)


if __name__ == "__main__":
    main()
