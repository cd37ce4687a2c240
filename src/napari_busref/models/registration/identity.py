"""The registration baseline: no registration."""

from __future__ import annotations

from torch import Tensor, nn

from napari_busref.geometry import Estimate, identity_theta
from napari_busref.runtime.progress import Reporter

__all__ = ["Identity"]


class Identity(nn.Module):
    """Return the identity, as a registration baseline."""

    def forward(
        self,
        fixed: Tensor,
        moving: Tensor,
        moving_valid: Tensor | None = None,
        reporter: Reporter | None = None,
    ) -> Estimate:
        """Return the identity for each of (B, 1, H, W)."""
        return Estimate(identity_theta(len(fixed), fixed))
