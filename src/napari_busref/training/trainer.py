"""The training loop on Lightning Fabric: steps, checkpoints, logs, validation."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import math
import pickle
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning_fabric.strategies import DDPStrategy
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from napari_busref.runtime.device import resolve_device
from napari_busref.runtime.errors import one_line
from napari_busref.runtime.progress import Progress, Reporter
from napari_busref.training.batches.pair_store import PairStore
from napari_busref.training.export import commit, export
from napari_busref.training.recipe import Recipe, changed_settings, load_recipe
from napari_busref.training.stages import build_stage

# Settings that a training may continue with other values of.
_FREE = (
    "steps", "threads", "processes", "log_every", "validate_every", "checkpoint_every",
    "validation_pairs", "data.root",
)  # fmt: skip


class RunCallback(Protocol):
    """What the ``callback=`` argument of `napari_busref.training.run` accepts."""

    def logged(self, step: int, losses: Mapping[str, float]) -> None:
        """Receive the losses of a logged step; raise to stop with a checkpoint."""

    def measure(self, model: nn.Module, step: int, reporter: Reporter) -> dict[str, float]:
        """Measure the model, in evaluation mode on the device of the training.

        Called every ``validate_every`` steps and after the last one. `reporter` cancels.
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
    callback: RunCallback | None = None,
    gpu: bool | None = None,
) -> Path | None:
    """Train one stage and write its weights.

    Parameters
    ----------
    stage : str
        One of ``STAGES``; must be the recipe's.
    recipe : path or Recipe
        TOML file, see `napari_busref.training.recipe.load_recipe`; or a loaded one, which ignores
        `overrides` and `gpu`.
    output : path
        Folder for ``checkpoint.ckpt``, the weights, and ``logs/version_N`` with ``metrics.csv``
        and, where it is installed, events for TensorBoard.
    resume : bool
        Continue from the checkpoint in ``output``, if there is one.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    overrides : mapping, optional
        Replacements in the recipe by dotted name.
    store : PairStore, optional
        Pairs to train on instead of the recipe's data sets. Only a `callback` then validates.
    max_minutes : float, optional
        Stop after this time with a checkpoint; a later call with ``resume`` continues.
    progress, cancel
        ``progress`` is called at every logged step; a set ``cancel`` stops with a checkpoint.
    callback : RunCallback, optional
        Receives the losses of every logged step, and replaces the validation of the stage.
    gpu : bool, optional
        Apply the recipe's ``[gpu]`` table; by default on a CUDA device.

    Returns
    -------
    Path or None
        The weights, or None when the run stopped before its last step.

    Raises
    ------
    ValueError
        For a wrong recipe, stage or data folder.
    Cancelled
        When ``cancel`` was set; the checkpoint remains.
    """
    target = resolve_device(device)
    if isinstance(recipe, Recipe):
        settings = recipe
    else:
        settings = load_recipe(
            recipe, overrides, gpu=target.type == "cuda" if gpu is None else gpu
        )
    if settings.stage != stage:
        raise ValueError(
            f"stage {stage!r} was requested, but recipe {str(recipe)!r} is for {settings.stage!r}"
        )
    training = _Run(settings, Path(output), target, store, callback)
    try:
        return training.train(resume, max_minutes, Reporter(progress, cancel))
    finally:
        training.close_logs()


class _Run:
    """State of one training run."""

    def __init__(
        self,
        recipe: Recipe,
        output: Path,
        device: torch.device,
        store: PairStore | None,
        callback: RunCallback | None,
    ) -> None:
        self.recipe, self.output, self.callback = recipe, output, callback
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        parallel = recipe.processes > 1
        output.mkdir(parents=True, exist_ok=True)
        self.fabric = Fabric(
            accelerator=device.type,
            devices=recipe.processes if parallel or device.index is None else [device.index],
            strategy=DDPStrategy(find_unused_parameters=True) if parallel else "auto",
            precision=recipe.precision,  # type: ignore[arg-type]
            loggers=_loggers(output),
        )
        self.fabric.launch()
        torch.manual_seed(recipe.seed)
        with self.fabric.rank_zero_first():
            self.stage = build_stage(recipe)
            self.validates = store is None or callback is not None
            data = PairStore.from_config(recipe.data) if store is None else store
        self.stage.to(self.fabric.device)
        self.store = self.stage.prepare(data.to(self.fabric.device))
        trained = [p for p in self.stage.model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(
            trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.module, self.optimiser = self.fabric.setup(self.stage, optimiser)
        self.average: AveragedModel | None = None
        if recipe.average:
            averaging = get_ema_multi_avg_fn(recipe.average)
            self.average = AveragedModel(self.stage.model, multi_avg_fn=averaging)
        self.step, self.seconds = 0, 0.0
        self.commit = commit()  # read first: the checkout may change during the run

    @property
    def checkpoint(self) -> Path:
        return self.output / "checkpoint.ckpt"

    def train(self, resume: bool, max_minutes: float | None, reporter: Reporter) -> Path | None:
        if resume and self.checkpoint.is_file():
            self._load()
        started = time.monotonic() - self.seconds
        end = math.inf if max_minutes is None else self.seconds + 60 * max_minutes
        self.module.train()
        try:
            while self.step < self.recipe.steps:
                self.seconds = time.monotonic() - started
                if self.seconds > end:
                    self._save()
                    return None
                self._advance(reporter)
        except _FullDisk:
            raise
        except BaseException:
            # keep what a cancelled or interrupted run has learned
            if self.fabric.world_size == 1:
                self._save()
            raise
        self.seconds = time.monotonic() - started
        return self._finish(reporter)

    def close_logs(self) -> None:
        """End the events of TensorBoard, with its thread."""
        for logger in self.fabric.loggers[1:]:
            with contextlib.suppress(OSError):  # a full disk, which the checkpoint has reported
                logger.finalize("")

    def _advance(self, reporter: Reporter) -> None:
        """Make one step, and log, save and validate when due."""
        recipe = self.recipe
        losses = self._one_step()
        self.step += 1
        if self.step % recipe.log_every == 0 or self.step == recipe.steps:
            values = {name: float(value.detach()) for name, value in losses.items()}
            self.fabric.log_dict(
                {**values, "lr": self._rate(), "seconds": self.seconds}, self.step
            )
            if self.callback is not None:
                self.callback.logged(self.step, values)
            reporter.step(
                f"{recipe.stage} {self.step}/{recipe.steps}  loss {values['loss']:.4f}",
                self.step / recipe.steps,
            )
        if self.step % recipe.checkpoint_every == 0:
            self._save()
        if self.step % recipe.validate_every == 0 and self.step < recipe.steps:
            self._validate(reporter)

    def _finish(self, reporter: Reporter) -> Path:
        """Measure the trained model and write its weights."""
        recipe, fabric = self.recipe, self.fabric
        if recipe.steps % recipe.checkpoint_every:
            self._save()  # the validation may take long, and be cancelled
        if self.average is not None:
            self.stage.model.load_state_dict(self.average.module.state_dict())
        if recipe.start_share:  # not in the checkpoint: resuming must not average twice
            self.stage.blend_start()
        scores = self._validate(reporter)
        if fabric.is_global_zero:
            self._save_logs()
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
        return self.output / f"{self.stage.export_name}.safetensors"

    def _one_step(self) -> dict[str, torch.Tensor]:
        recipe, fabric = self.recipe, self.fabric
        # seed, step and process determine every draw: resuming repeats an unbroken run
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
        if self.average is not None:
            self.average.update_parameters(self.stage.model)
        return losses

    def _rate(self) -> float:
        recipe = self.recipe
        warm = max(recipe.warmup * recipe.steps, 1)
        if self.step < warm:
            return recipe.learning_rate * (self.step + 1) / warm
        share = (self.step - warm) / max(recipe.steps - warm, 1)
        return recipe.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(share, 1))) / 2)

    def _validate(self, reporter: Reporter) -> dict[str, float]:
        if not (self.validates and self.fabric.is_global_zero):
            return {}
        self.stage.eval()
        if self.callback is None:
            scores = self.stage.validate(self.fabric.device)
        else:
            scores = self.callback.measure(self.stage.model, self.step, reporter)
        self.stage.train()
        self.fabric.log_dict({f"val_{name}": value for name, value in scores.items()}, self.step)
        text = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
        reporter.step(
            f"{self.recipe.stage} {self.step}/{self.recipe.steps}  val {text}",
            self.step / self.recipe.steps,
        )
        return scores

    def _state(self) -> dict[str, Any]:
        """What a checkpoint restores in place."""
        state: dict[str, Any] = {"model": self.module, "optimiser": self.optimiser}
        return state if self.average is None else {**state, "average": self.average}

    def _save(self) -> None:
        recipe = json.dumps(dataclasses.asdict(self.recipe))
        state = {**self._state(), "step": self.step, "seconds": self.seconds, "recipe": recipe}
        # write beside the last good checkpoint, in case the run dies while writing
        partial = self.checkpoint.with_suffix(".partial")
        try:
            self.fabric.save(partial, state)
            if self.fabric.is_global_zero:
                partial.replace(self.checkpoint)
                self._save_logs()
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError on a full disk
            partial.unlink(missing_ok=True)
            raise _FullDisk(
                f"output: {self.output} cannot take the checkpoint of step {self.step} "
                f"({one_line(error)}). The one before it remains: free some space, and continue "
                "with --resume"
            ) from error
        self.fabric.barrier()

    def _save_logs(self) -> None:
        for logger in self.fabric.loggers:
            logger.save()

    def _load(self) -> None:
        try:
            head = torch.load(self.checkpoint, map_location="cpu", mmap=True, weights_only=True)
        except (OSError, RuntimeError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"output: {self.checkpoint} is no checkpoint ({one_line(error)}); remove it to "
                "begin again"
            ) from error
        stored = json.loads(head.get("recipe", "{}"))
        if stored and (changed := changed_settings(self.recipe, stored, _FREE)):
            raise ValueError(
                f"recipe: {changed} since the checkpoint in {self.output}; restore it to "
                "continue, or name another folder to begin again"
            )
        rest = self.fabric.load(self.checkpoint, self._state(), weights_only=True)
        self.step, self.seconds = int(rest["step"]), float(rest["seconds"])


def _loggers(output: Path) -> list[Logger]:
    """A table, and events for TensorBoard where it is installed; each start a new version_N."""
    table = CSVLogger(output, name="logs")
    if importlib.util.find_spec("tensorboard") is None:
        return [table]
    return [table, TensorBoardLogger(output, name="logs", version=table.version)]


class _FullDisk(OSError):
    """A checkpoint cannot be written; trying again would fail, too."""
