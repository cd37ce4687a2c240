"""The training loop: Lightning Fabric, checkpoints that resume, logs, validation."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import CSVLogger
from lightning_fabric.strategies import DDPStrategy
from torch import nn

from napari_busref.runtime.device import resolve_device
from napari_busref.runtime.progress import Progress, Reporter
from napari_busref.training.batches.data import PairStore
from napari_busref.training.export import commit, export
from napari_busref.training.recipe import Recipe, load_recipe
from napari_busref.training.stages import build_stage


class Monitor(Protocol):
    """What the ``monitor=`` argument of `napari_busref.training.run` accepts."""

    def logged(self, step: int, losses: Mapping[str, float]) -> None:
        """Take note of the losses of a logged step; raise to stop with a checkpoint."""

    def measure(self, model: nn.Module, step: int, reporter: Reporter) -> dict[str, float]:
        """Measure the model, in evaluation mode on the device of the training.

        Called every ``validate_every`` steps and after the last one. `reporter` is asked whether
        to stop.
        """


def run(
    stage: str,
    recipe: str | Path | Recipe,
    *,
    output: str | Path,
    resume: bool = False,
    device: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    store: PairStore | None = None,
    max_minutes: float | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    monitor: Monitor | None = None,
) -> Path | None:
    """Train one stage and write its weights.

    Parameters
    ----------
    stage : str
        One of ``STAGES``; must be the recipe's.
    recipe : path or Recipe
        TOML file, see :class:`~napari_busref.training.recipe.Recipe`; or one that is made already
        (`overrides` are for files).
    output : path
        Folder for ``checkpoint.ckpt``, ``logs/version_N/metrics.csv`` and the weights.
    resume : bool
        Go on from the checkpoint in ``output``, when there is one.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    overrides : mapping, optional
        Replacements in the recipe by dotted name.
    store : PairStore, optional
        Pairs to train on instead of the recipe's data sets (validation is then left out, but for
        that of a `monitor`).
    max_minutes : float, optional
        Stop after this time with a checkpoint; a later call with ``resume`` goes on.
    progress, cancel
        Told at every logged step; a set ``cancel`` stops with a checkpoint.
    monitor : Monitor, optional
        Sees the losses of every logged step, and measures the model instead of the stage's own
        validation.

    Returns
    -------
    Path or None
        The weights, or None when the run stopped before its last step.

    Raises
    ------
    ValueError
        For a wrong recipe, stage or data folder.
    Cancelled
        When ``cancel`` was set; the checkpoint is kept.
    """
    settings = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    if settings.stage != stage:
        raise ValueError(
            f"stage {stage!r} was asked for, but recipe {str(recipe)!r} is for {settings.stage!r}"
        )
    return _Run(settings, Path(output), device, store, monitor).train(
        resume, max_minutes, Reporter(progress, cancel)
    )


class _Run:
    """State of one training run."""

    def __init__(
        self,
        recipe: Recipe,
        output: Path,
        device: str,
        store: PairStore | None,
        monitor: Monitor | None,
    ) -> None:
        self.recipe, self.output, self.monitor = recipe, output, monitor
        target = resolve_device(device)
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        parallel = recipe.processes > 1
        output.mkdir(parents=True, exist_ok=True)
        self.fabric = Fabric(
            accelerator=target.type,
            devices=recipe.processes if parallel or target.index is None else [target.index],
            strategy=DDPStrategy(find_unused_parameters=True) if parallel else "auto",
            precision=recipe.precision,  # type: ignore[arg-type]
            loggers=CSVLogger(output, name="logs"),  # a new version_N for every start
        )
        self.fabric.launch()
        torch.manual_seed(recipe.seed)
        with self.fabric.rank_zero_first():
            self.stage = build_stage(recipe)
            self.validates = store is None or monitor is not None
            data = PairStore.from_config(recipe.data) if store is None else store
        self.stage.to(self.fabric.device)
        self.store = self.stage.prepare(data.to(self.fabric.device))
        trained = [p for p in self.stage.model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(
            trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.module, self.optimiser = self.fabric.setup(self.stage, optimiser)
        self.step, self.seconds = 0, 0.0
        self.commit = commit()  # of now: the checkout may move on while this runs

    @property
    def checkpoint(self) -> Path:
        return self.output / "checkpoint.ckpt"

    def train(self, resume: bool, max_minutes: float | None, reporter: Reporter) -> Path | None:
        recipe, fabric = self.recipe, self.fabric
        if resume and self.checkpoint.is_file():
            self._load()
        started = time.monotonic()
        before = self.seconds
        self.module.train()
        try:
            while self.step < recipe.steps:
                self.seconds = before + time.monotonic() - started
                if max_minutes is not None and self.seconds - before > 60 * max_minutes:
                    self._save()
                    return None
                losses = self._one_step()
                self.step += 1
                if self.step % recipe.log_every == 0 or self.step == recipe.steps:
                    values = {name: float(value.detach()) for name, value in losses.items()}
                    fabric.log_dict(
                        {**values, "lr": self._rate(), "seconds": self.seconds}, self.step
                    )
                    if self.monitor is not None:
                        self.monitor.logged(self.step, values)
                    reporter.step(
                        f"{recipe.stage} {self.step}/{recipe.steps}  loss {values['loss']:.4f}",
                        self.step / recipe.steps,
                    )
                if self.step % recipe.checkpoint_every == 0:
                    self._save()
                if self.step % recipe.validate_every == 0 and self.step < recipe.steps:
                    self._report(reporter)
        except BaseException:
            # cancelled or interrupted: what was learned so far is not lost
            if fabric.world_size == 1:
                self._save()
            raise
        self.seconds = before + time.monotonic() - started
        if recipe.steps % recipe.checkpoint_every:
            self._save()  # measuring may take long, and be cancelled
        if recipe.start_share:  # not in the checkpoint: resuming must not average twice
            self.stage.blend_start()
        scores = self._report(reporter)
        if fabric.is_global_zero:
            fabric.logger.save()
        weights = self.output / f"{self.stage.export_name}.safetensors"
        if fabric.is_global_zero:
            export(
                self.stage,
                recipe,
                self.output,
                device=fabric.device,
                step=self.step,
                seconds=self.seconds,
                commit=self.commit,
                scores=scores,
            )
        fabric.barrier()
        return weights

    def _one_step(self) -> dict[str, torch.Tensor]:
        recipe, fabric = self.recipe, self.fabric
        # every draw follows from seed, step and process: a resumed run repeats an unbroken one
        torch.manual_seed(
            recipe.seed + 7919 * (self.step * fabric.world_size + fabric.global_rank) + 1
        )
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        losses: dict[str, torch.Tensor] = self.module(self.stage.draw(self.store))
        self.optimiser.zero_grad()
        fabric.backward(losses["loss"])
        fabric.clip_gradients(self.module, self.optimiser, max_norm=recipe.clip)
        self.optimiser.step()
        return losses

    def _rate(self) -> float:
        recipe = self.recipe
        warm = max(recipe.warmup * recipe.steps, 1)
        if self.step < warm:
            return recipe.learning_rate * (self.step + 1) / warm
        share = (self.step - warm) / max(recipe.steps - warm, 1)
        return recipe.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(share, 1))) / 2)

    def _report(self, reporter: Reporter) -> dict[str, float]:
        if not (self.validates and self.fabric.is_global_zero):
            return {}
        self.stage.eval()
        if self.monitor is None:
            scores = self.stage.validate(self.fabric.device)
        else:
            scores = self.monitor.measure(self.stage.model, self.step, reporter)
        self.stage.train()
        self.fabric.log_dict({f"val_{name}": value for name, value in scores.items()}, self.step)
        text = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
        reporter.step(
            f"{self.recipe.stage} {self.step}/{self.recipe.steps}  val {text}",
            self.step / self.recipe.steps,
        )
        return scores

    def _save(self) -> None:
        state = {
            "model": self.module,
            "optimiser": self.optimiser,
            "step": self.step,
            "seconds": self.seconds,
        }
        # a run that dies while writing must not take the last good checkpoint with it
        partial = self.checkpoint.with_suffix(".partial")
        self.fabric.save(partial, state)
        if self.fabric.is_global_zero:
            partial.replace(self.checkpoint)
            self.fabric.logger.save()
        self.fabric.barrier()

    def _load(self) -> None:
        state: dict[str, Any] = {"model": self.module, "optimiser": self.optimiser}
        rest = self.fabric.load(self.checkpoint, state)
        self.step, self.seconds = int(rest["step"]), float(rest["seconds"])
