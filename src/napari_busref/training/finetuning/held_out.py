"""Measuring a model on the pairs that were kept back, and pictures of the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_busref.metrics.registration import make_pair
from napari_busref.runtime.progress import Reporter
from napari_busref.training.finetuning.pairs import PreparedPair
from napari_busref.training.stages.fusion import fusion_scores
from napari_busref.training.stages.synthetic import register_pair, score

Grey = NDArray[np.float32]

_WARPS = 2  # synthetic warps of each pair
_SCORES = ("epe", "mncc")


@dataclass(frozen=True, eq=False)
class Measured:
    """What a model did on the pairs that were kept back.

    Attributes
    ----------
    scores : dict
        Means over the pairs.
    picture : ndarray of float32, shape (H, W)
        Of the first pair: the fused image; or the infrared image under a synthetic warp, as the
        model put it back onto the visible one.
    """

    scores: dict[str, float]
    picture: Grey


class HeldOutPairs(Protocol):
    """Measures models of one kind."""

    def __call__(self, model: nn.Module, reporter: Reporter) -> Measured:
        """Measure a model where it lies; `reporter` is asked whether to stop."""


class HeldOutRegistration:
    """Mean end-point error and MNCC under synthetic warps of a fixed seed.

    Parameters
    ----------
    pairs : sequence of PreparedPair
    """

    def __init__(self, pairs: Sequence[PreparedPair]) -> None:
        self._pairs = [
            make_pair(pair.moving, pair.fixed, seed) for pair in pairs for seed in range(_WARPS)
        ]

    def __call__(self, model: nn.Module, reporter: Reporter) -> Measured:
        """See `HeldOutPairs`."""
        device, rows, picture = _device(model), [], None
        for pair in self._pairs:
            reporter.check()
            transform = register_pair(model, pair, device)
            rows.append(score(pair, transform))
            if picture is None:
                picture = transform.apply(pair.moving.astype(np.float32))
        assert picture is not None
        return Measured(
            {name: float(np.mean([row[name] for row in rows])) for name in _SCORES}, picture
        )


class HeldOutFusion:
    """Mean Q_AB/F, VIF, SCD, SSIM and N_AB/F.

    Parameters
    ----------
    pairs : sequence of PreparedPair
    """

    def __init__(self, pairs: Sequence[PreparedPair]) -> None:
        self._pairs = list(pairs)

    @torch.no_grad()
    def __call__(self, model: nn.Module, reporter: Reporter) -> Measured:
        """See `HeldOutPairs`."""
        device, rows = _device(model), []
        for pair in self._pairs:
            reporter.check()
            levels = 255 * pair.fixed.astype(np.float64), 255 * pair.moving.astype(np.float64)
            rows.append(fusion_scores(model, [levels], device))
        first = (
            torch.from_numpy(image)[None, None].to(device)
            for image in (self._pairs[0].fixed, self._pairs[0].moving)
        )
        picture: Grey = model(*first).float().clamp(0, 1).cpu().numpy()[0, 0]
        return Measured(
            {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}, picture
        )


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
