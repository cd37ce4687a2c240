"""From a prepared pair to a transform and its evidence: the core of `register`.

`register` adds the checks, the verdict and the resampling. Benchmarks that need an estimate which
the verdict would reject enter here::

    pair = prepare_pair(fixed, moving)
    with inference_session("auto", "registration", "cpu") as session:
        found = estimate_transform(pair, Method.of(session))
    quality = assess_estimate(pair, found)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_busref.images.preprocess import Prepared, fill_invalid
from napari_busref.models.inference import InferenceSession, cancellable, run_detached
from napari_busref.registration.prepare import Pair
from napari_busref.registration.quality import GOOD_PX, Evidence, Quality, assess
from napari_busref.runtime.progress import Cancelled, Plan
from napari_busref.runtime.stopwatch import Stopwatch
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    import torch
    from torch import nn

    from napari_busref.geometry import Estimate
    from napari_busref.registration.context import MatchOptions
    from napari_busref.registration.features import MatchingNetworks
    from napari_busref.registration.pyramid import MaskedImage

__all__ = ["Estimated", "Method", "NotRegistered", "assess_estimate", "estimate_transform"]


class NotRegistered(Exception):
    """Registration failed, with the reason in plain words; `register` catches it once."""


@dataclass(frozen=True)
class Method:
    """The networks and options that register a pair; proposal networks by name."""

    device: torch.device
    proposal_networks: dict[str, nn.Module]
    networks: MatchingNetworks
    options: MatchOptions

    @property
    def matches(self) -> bool:
        """False when one network runs alone, without search and refinement."""
        options = self.options
        return options.initial or options.search != "none" or options.refine != "none"

    @classmethod
    def of(
        cls,
        session: InferenceSession,
        search: str | None = None,
        refine: str | None = None,
        transform: str = "affine",
        *,
        mirrored: bool = False,
    ) -> Method:
        """The method of a session's model; for the options see `napari_busref.register`."""
        from napari_busref.registration.auto import Auto
        from napari_busref.registration.context import MatchOptions
        from napari_busref.registration.features import MatchingNetworks

        module = session.module
        auto = isinstance(module, Auto)
        if isinstance(module, Auto):
            proposals, networks = dict(module.proposal_networks.items()), module.networks
        else:
            proposals, networks = {session.name: module}, MatchingNetworks.load(session.device)
        options = MatchOptions(
            search=search or ("auto" if auto else "none"),
            refine=refine or ("dense" if auto else "none"),
            transform=transform,
            initial=auto,
            mirrored=mirrored,
        )
        return cls(session.device, proposals, networks, options)


@dataclass(frozen=True, eq=False)
class Estimated:
    """An estimated transform, with evidence unless the registration was cancelled.

    Attributes
    ----------
    transform : Transform
    evidence : Evidence or None
    wide : bool
        Whether a wide search found it; large rotations and scales are then plausible.
    support : ndarray of float32, optional
        See `napari_busref.registration.consistency.local_support`.
    support_px : float
        Its tolerance, in pixels of the fixed image.
    inverse : Transform, optional
        From the moving to the fixed image, of a network that estimates both directions.
    """

    transform: Transform
    evidence: Evidence | None = None
    wide: bool = False
    support: NDArray[np.float32] | None = None
    support_px: float = GOOD_PX
    inverse: Transform | None = None


def estimate_transform(
    pair: Pair,
    method: Method,
    plan: Plan | None = None,
    watch: Stopwatch | None = None,
    *,
    keep_best: bool = False,
) -> Estimated:
    """Estimate the transform of a pair.

    Parameters
    ----------
    pair : Pair
    method : Method
    plan : Plan, optional
        Receives the progress and may cancel.
    watch : Stopwatch, optional
        Times the stages.
    keep_best : bool
        When cancelled, return the best estimate that the refinement has reached, if it has begun.
        The work then runs in a thread, which is abandoned when cancelled.

    Raises
    ------
    NotRegistered
        When the pair has nothing to register, or the estimate is not finite or folds.
    Cancelled
        Unless `keep_best` is set and the refinement has begun.
    """
    from napari_busref.geometry import pixels_to_estimate
    from napari_busref.registration.candidates import match
    from napari_busref.registration.consistency import (
        inverse_consistency,
        least_tolerance,
        local_support,
    )
    from napari_busref.registration.context import RunContext
    from napari_busref.registration.features import FixedFeatures

    plan, watch = plan or Plan(), watch or Stopwatch()
    plan.check()
    _require_registrable(pair, method)
    shapes = (pair.shape, pair.moving.shape)
    fixed, moving = (_to_masked_image(image, method.device) for image in (pair.fixed, pair.moving))
    start = pair.on_working_grid(pair.initial)
    initial = pixels_to_estimate(
        start.affine, start.displacement, pair.fixed.shape, pair.moving.shape, method.device
    )
    features = FixedFeatures(method.networks, fixed)
    reached: list[Estimate] = []
    run = RunContext(method.options, plan, watch, reached.append)

    def transform_of(estimate: Estimate) -> Transform:
        same = estimate.phi is initial.phi and bool((estimate.theta == initial.theta).all())
        # An estimate that equals the initial one returns it without float32 rounding.
        return pair.initial if same else _to_transform(estimate, *shapes)

    def work() -> Estimated:
        modules = (*method.proposal_networks.values(), *vars(method.networks).values())
        with cancellable(modules, plan.check):
            found = match(method.proposal_networks, features, moving, initial, run)
            transform = transform_of(found.estimate)
            plan.begin("cross-check")
            inconsistency = inverse_consistency(features, moving, found.estimate)
            tolerance = max(GOOD_PX, least_tolerance(pair.shape))
            share = tolerance / max(pair.shape)
            support = local_support(features, moving, found.estimate, share)
        evidence = Evidence(
            block_confidence=found.block_confidence,
            inverse_consistency_px=inconsistency * min(shapes[0]),
            refined_px=_refined_px(found.coarse, transform, transform_of),
            chosen=found.chosen,
            candidates=found.scores,
            mirror_fits=found.mirror_fits,
        )
        watch.lap("agreement")
        inverse = None
        if found.estimate.backward is not None:
            # the network has seen the moving image by the initial transform
            back = _to_transform(found.estimate.backward, pair.shape, pair.shape)
            inverse = pair.initial.inverse().compose(back)
        return Estimated(transform, evidence, found.wide, support, tolerance, inverse)

    if not keep_best:
        return work()
    import torch

    try:
        # the mode is per thread
        return run_detached(torch.inference_mode()(work), plan.check)
    except Cancelled:
        if not reached:
            raise
        return Estimated(transform_of(reached[-1]), wide=method.options.search == "wide")


def assess_estimate(pair: Pair, found: Estimated, *, mirrored: bool = False) -> Quality:
    """Assess an estimate, see `napari_busref.registration.quality.assess`."""
    working = pair.on_working_grid(found.transform)
    return assess(
        pair.fixed.grey,
        working.apply(pair.moving.grey, cval=0.0),
        working.mask(pair.moving.valid),
        found.transform,
        found.evidence or Evidence(0.0, float("inf")),
        initial=pair.initial,
        working=working,
        before=pair.warped,
        before_mask=pair.warped_mask,
        fixed_valid=pair.fixed.valid,
        wide=found.wide,
        mirrored=mirrored,
        support=found.support,
        support_px=found.support_px,
    )


def _require_registrable(pair: Pair, method: Method) -> None:
    if pair.problem is not None:
        raise NotRegistered(pair.problem)
    if method.options.search == "none" and not pair.warped_mask.any():
        raise NotRegistered("the moving image covers no pixel of the fixed image there")


def _to_masked_image(image: Prepared, device: torch.device) -> MaskedImage:
    import torch

    from napari_busref.registration.pyramid import MaskedImage

    def tensor(values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float32))[None, None].to(device)

    return MaskedImage(tensor(fill_invalid(image.grey, image.valid)), tensor(image.valid))


def _to_transform(
    estimate: Estimate, fixed: tuple[int, int], moving: tuple[int, int]
) -> Transform:
    """The estimate in pixels.

    Raises
    ------
    NotRegistered
        When it is not finite, or no transform.
    """
    from napari_busref.geometry import estimate_to_pixels

    with np.errstate(over="ignore", invalid="ignore"):  # checked below
        affine, displacement = estimate_to_pixels(estimate, fixed, moving)[0]
    affine[2] = (0.0, 0.0, 1.0)
    if not np.isfinite(affine).all() or not (
        displacement is None or np.isfinite(displacement).all()
    ):
        raise NotRegistered("no usable transform was found (values that are not finite)")
    if displacement is not None:
        displacement.flags.writeable = False  # `Transform` then needs no copy
    try:
        return Transform(affine, displacement, fixed_shape=fixed, moving_shape=moving)
    except ValueError as error:
        raise NotRegistered(f"no usable transform was found ({error})") from error


def _refined_px(
    coarse: Estimate, refined: Transform, transform_of: Callable[[Estimate], Transform]
) -> float:
    """Mean distance on a grid, in fixed pixels; 0 where the candidate is no transform."""
    try:
        first = transform_of(coarse)
    except NotRegistered:
        return 0.0
    grid = np.stack(np.meshgrid(*(np.linspace(0, n - 1, 12) for n in first.fixed_shape)), -1)
    apart = first.points(grid.reshape(-1, 2)) - refined.points(grid.reshape(-1, 2))
    back = np.linalg.inv(refined.affine[:2, :2])
    return float(np.hypot(*(back @ apart.T)).mean())
