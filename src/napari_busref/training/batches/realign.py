"""Pairs that were aligned by hand, laid on each other anew before something learns from them."""

from __future__ import annotations

import torch
from torch import Tensor

from napari_busref.geometry import Estimate, identity_theta
from napari_busref.registration.features import FixedFeatures, MatchingNetworks
from napari_busref.registration.pyramid import MaskedImage, resample
from napari_busref.registration.refine import pyramid_schedule, refine_levels
from napari_busref.training.batches.data import PairStore

_LAST = 2
"""Looks, counted from the finest: what an alignment by hand leaves is small."""


@torch.no_grad()
def realigned(store: PairStore, networks: MatchingNetworks) -> PairStore:
    """The pairs with each infrared image resampled to where refinement sees it.

    What the networks see in a pair does not depend on what its author called aligned, if they
    were trained on many pairs: the errors of these have no common direction.
    """
    return PairStore([(_realigned(ir, vis, networks), vis) for ir, vis in store.pairs])


def _realigned(infrared: Tensor, visible: Tensor, networks: MatchingNetworks) -> Tensor:
    shape = (visible.shape[1], visible.shape[2])
    ones = torch.ones_like(visible)[None]
    fixed, moving = MaskedImage(visible[None], ones), MaskedImage(infrared[None], ones)
    start = Estimate(identity_theta(1, visible))
    plan = pyramid_schedule("dense", "affine", shape)[-_LAST:]
    *_, estimate = refine_levels(FixedFeatures(networks, fixed), moving, start, plan)
    return resample(moving, estimate, shape).image[0]
