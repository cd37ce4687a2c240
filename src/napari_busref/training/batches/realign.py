"""Realign pairs that were aligned by hand, when they are first drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from napari_busref.geometry import (
    Estimate,
    base_grid,
    identity_theta,
    pixel_distance,
    sampling_grid,
)
from napari_busref.registration.features import FixedFeatures, MatchingNetworks
from napari_busref.registration.pyramid import MaskedImage, pyramid_schedule, resample
from napari_busref.registration.refine import refine_levels
from napari_busref.training.batches.pair_store import Pair, PairStore

_LEVELS = 2
"""Finest pyramid levels to refine; alignment by hand leaves small errors."""

_LARGEST_PX = 6.0
"""Largest displacement of a pixel. Networks that do not know a modality move more: MRI / PET 29 to
46 px, MRI / CT 8 to 17, maps at most 4 (`val` pairs at 256 px)."""


def realigned(store: PairStore, networks: MatchingNetworks) -> PairStore:
    """Refine each pair when it is first drawn, and resample its infrared image.

    Networks that trained on many pairs do not repeat the alignment errors of single pairs, because
    these errors have no common direction.
    """
    return PairStore(_Realigned(store.pairs, networks))


class _Realigned(Sequence[Pair]):
    """Pairs that are realigned when first read: a run with many pairs starts at once."""

    def __init__(self, pairs: Sequence[Pair], networks: MatchingNetworks) -> None:
        self._pairs, self._networks = pairs, networks
        self._done: dict[int, Tensor] = {}  # by the identity of the image: pairs may repeat

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, number: Any) -> Any:
        infrared, visible = self._pairs[number]
        if id(infrared) not in self._done:
            self._done[id(infrared)] = _realigned(infrared, visible, self._networks)
        return self._done[id(infrared)], visible


@torch.no_grad()
def _realigned(infrared: Tensor, visible: Tensor, networks: MatchingNetworks) -> Tensor:
    shape = (visible.shape[1], visible.shape[2])
    ones = torch.ones_like(visible)[None]
    fixed, moving = MaskedImage(visible[None], ones), MaskedImage(infrared[None], ones)
    start = Estimate(identity_theta(1, visible))
    levels = pyramid_schedule("dense", "affine", shape)[-_LEVELS:]
    *_, estimate = refine_levels(FixedFeatures(networks, fixed), moving, start, levels)
    grid = sampling_grid(estimate, *shape)
    if pixel_distance(grid, base_grid(*shape, visible), shape).max() > _LARGEST_PX:
        return infrared
    return resample(moving, estimate, shape).image[0]
