"""Measure a model on held-out pairs, and show the first of them."""

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

_WARPS_PER_PAIR = 2
_SCORES = ("epe", "mncc")


@dataclass(frozen=True, eq=False)
class Measured:
    """Scores and a picture of a model on held-out pairs.

    Attributes
    ----------
    scores : dict
        Means over the pairs.
    picture : ndarray of float32, shape (H, W)
        Of the first pair: the fused image, or the infrared image registered after a synthetic
        warp.
    """

    scores: dict[str, float]
    picture: Grey


class HeldOutPairs(Protocol):
    """Measures models of one kind."""

    def __call__(self, model: nn.Module, reporter: Reporter) -> Measured:
        """Measure a model on its device; `reporter` cancels."""


class HeldOutRegistration:
    """Mean end-point error and MNCC under synthetic warps of fixed seeds.

    Parameters
    ----------
    pairs : sequence of PreparedPair
    """

    def __init__(self, pairs: Sequence[PreparedPair]) -> None:
        self._pairs = [
            make_pair(pair.moving, pair.fixed, seed)
            for pair in pairs
            for seed in range(_WARPS_PER_PAIR)
        ]

    def __call__(self, model: nn.Module, reporter: Reporter) -> Measured:
        """See `HeldOutPairs`."""
        device, rows, picture = _device(model), [], None
        for pair in self._pairs:
            reporter.check()
            transform = register_pair(model, pair, device)
            rows.append(score(pair, transform))
            if picture is None:
                picture = transform.apply(pair.moving.astype(np.float32), cval=0.0)
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
        images = (
            torch.from_numpy(image)[None, None].to(device)
            for image in (self._pairs[0].fixed, self._pairs[0].moving)
        )
        picture: Grey = model(*images).float().clamp(0, 1).cpu().numpy()[0, 0]
        return Measured(
            {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}, picture
        )


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
