"""What is run on one pair of images, from the start to what the matching says of the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_busref.images.preprocess import Prepared, fill_invalid
from napari_busref.models.inference import InferenceSession, cancellable, run_detached
from napari_busref.registration.quality import Evidence
from napari_busref.runtime.progress import Cancelled, Reporter
from napari_busref.runtime.stopwatch import Stopwatch
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    import torch
    from torch import nn

    from napari_busref.geometry import Estimate
    from napari_busref.registration.pyramid import MaskedImage


@dataclass
class Outcome:
    """What was found, or why nothing was."""

    transform: Transform
    problem: str | None = None
    evidence: Evidence | None = None


class Job:
    """What is to be run on one pair.

    Attributes
    ----------
    matches : bool
        Whether search or refinement take part, and not one network alone.
    """

    def __init__(
        self,
        run: InferenceSession,
        start: Transform,
        search: str | None,
        refine: str | None,
        transform: str,
    ) -> None:
        from napari_busref.registration.auto import Auto
        from napari_busref.registration.candidates import Options
        from napari_busref.registration.features import MatchingNetworks

        self.device, self.start = run.device, start
        self.proposal_networks: dict[str, nn.Module] = {run.name: run.module}
        auto = isinstance(run.module, Auto)
        if isinstance(run.module, Auto):
            self.proposal_networks = dict(run.module.proposal_networks.items())
            self.networks = run.module.networks
        else:
            self.networks = MatchingNetworks.load(run.device)
        self.options = Options(
            search=search or ("near" if auto else "none"),
            refine=refine or ("dense" if auto else "none"),
            transform=transform,
            start=auto,
        )
        self.matches = auto or self.options.search != "none" or self.options.refine != "none"

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Every network that takes part."""
        return (*self.proposal_networks.values(), self.networks.matcher, self.networks.likelihood)

    def out_of_sight(self, before_mask: NDArray[np.bool_]) -> str | None:
        """Why there is nothing to start from, if so."""
        if before_mask.any() or self.options.search != "none":
            return None
        return "the moving image covers no pixel of the fixed image there"

    def run(
        self,
        fixed: Prepared,
        moving: Prepared,
        reporter: Reporter,
        watch: Stopwatch,
        keep_best: bool,
    ) -> Outcome:
        """Register a pair that can be registered.

        Raises
        ------
        Cancelled
            Unless ``keep_best`` is set and the refinement has begun: then what that had reached
            is the outcome, without evidence.
        """
        from napari_busref.geometry import pixels_to_estimate
        from napari_busref.registration.candidates import find
        from napari_busref.registration.consistency import inverse_consistency
        from napari_busref.registration.features import FixedFeatures

        shapes = (fixed.shape, moving.shape)
        target, source = (_view(ready, self.device) for ready in (fixed, moving))
        start = pixels_to_estimate(
            self.start.affine, self.start.displacement, *shapes, self.device
        )
        reference = FixedFeatures(self.networks, target)
        reached: list[Estimate] = []

        def outcome_of(estimate: Estimate) -> Outcome:
            still = estimate.phi is start.phi and bool((estimate.theta == start.theta).all())
            # where nothing moved, the start itself and not what float32 made of it
            result = self.start if still else _as_transform(estimate, *shapes)
            if isinstance(result, str):
                return Outcome(self.start, problem=result)
            return Outcome(result)

        def work() -> Outcome:
            with cancellable(self.modules, reporter.check):
                proposal_networks, options = self.proposal_networks, self.options
                found = find(
                    proposal_networks,
                    reference,
                    source,
                    start,
                    options,
                    reporter,
                    watch,
                    reached.append,
                )
                outcome = outcome_of(found.estimate)
                if outcome.problem is not None:
                    return outcome
                reporter.step("cross-checking", 1.0)
                missed = inverse_consistency(reference, source, found.estimate)
            coarse = outcome_of(found.coarse)
            moved = 0.0 if coarse.problem else _mean_distance(coarse.transform, outcome.transform)
            outcome.evidence = Evidence(
                local=found.local,
                inverse_consistency_px=missed * min(shapes[0]),
                refined_px=moved,
                chosen=found.chosen,
                candidates=found.scores,
            )
            watch.lap("agreement")
            return outcome

        if not keep_best:
            return work()
        try:
            return run_detached(work, reporter.check)
        except Cancelled:
            if not reached:
                raise
            return outcome_of(reached[-1])  # who cancels does not wait for a check


def _view(ready: Prepared, device: torch.device) -> MaskedImage:
    """The whole image as search and refinement see it."""
    import torch

    from napari_busref.registration.pyramid import MaskedImage

    def tensor(values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float32))[None, None].to(device)

    return MaskedImage(tensor(fill_invalid(ready.grey, ready.valid)), tensor(ready.valid))


def _as_transform(
    estimate: Estimate, fixed: tuple[int, int], moving: tuple[int, int]
) -> Transform | str:
    """The estimate in pixels, or why it is of no use."""
    from napari_busref.geometry import estimate_to_pixels

    with np.errstate(over="ignore", invalid="ignore"):  # looked at below
        affine, displacement = estimate_to_pixels(estimate, fixed, moving)[0]
    affine[2] = (0.0, 0.0, 1.0)
    if not np.isfinite(affine).all() or not (
        displacement is None or np.isfinite(displacement).all()
    ):
        return "no usable transform was found (values that are not finite)"
    try:
        return Transform(affine, displacement, fixed_shape=fixed, moving_shape=moving)
    except ValueError as error:
        return f"no usable transform was found ({error})"


def _mean_distance(first: Transform, second: Transform) -> float:
    """How far apart both put a grid of fixed positions, in fixed pixels."""
    grid = np.stack(np.meshgrid(*(np.linspace(0, n - 1, 12) for n in first.fixed_shape)), -1)
    apart = first.points(grid.reshape(-1, 2)) - second.points(grid.reshape(-1, 2))
    back = np.linalg.inv(second.affine[:2, :2])
    return float(np.hypot(*(back @ apart.T)).mean())
