"""Realign pairs that were aligned by hand, before training."""

from __future__ import annotations

import torch
from torch import Tensor

from napari_busref.geometry import Estimate, identity_theta
from napari_busref.registration.features import FixedFeatures, MatchingNetworks
from napari_busref.registration.pyramid import MaskedImage, pyramid_schedule, resample
from napari_busref.registration.refine import refine_levels
from napari_busref.training.batches.pair_store import PairStore

_LEVELS = 2
"""Finest pyramid levels to refine; alignment by hand leaves small errors."""


@torch.no_grad()
def realigned(store: PairStore, networks: MatchingNetworks) -> PairStore:
    """Refine each pair, and resample its infrared image.

    Networks that trained on many pairs do not repeat the alignment errors of single pairs, because
    these errors have no common direction.
    """
    return PairStore([(_realigned(ir, vis, networks), vis) for ir, vis in store.pairs])


def _realigned(infrared: Tensor, visible: Tensor, networks: MatchingNetworks) -> Tensor:
    shape = (visible.shape[1], visible.shape[2])
    ones = torch.ones_like(visible)[None]
    fixed, moving = MaskedImage(visible[None], ones), MaskedImage(infrared[None], ones)
    start = Estimate(identity_theta(1, visible))
    levels = pyramid_schedule("dense", "affine", shape)[-_LEVELS:]
    *_, estimate = refine_levels(FixedFeatures(networks, fixed), moving, start, levels)
    return resample(moving, estimate, shape).image[0]
