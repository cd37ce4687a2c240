"""The default way to register: several candidates, a judge, refinement."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from napari_busref.geometry import Estimate, identity_theta
from napari_busref.models import load_model
from napari_busref.registration.features import Networks, Reference
from napari_busref.runtime.progress import Reporter


class Auto(nn.Module):
    """Networks that propose where the images fit, and the features that search and refine.

    `napari_busref.register` runs `napari_busref.registration.candidates` on its parts; called as a module
    it does the same on images of one size.

    Parameters
    ----------
    one_shot : mapping
        Registration networks by name.
    networks : Networks
        For search, judgement and refinement.
    """

    def __init__(self, one_shot: Mapping[str, nn.Module], networks: Networks) -> None:
        super().__init__()
        self.one_shot = nn.ModuleDict(one_shot)
        self.matcher, self.likelihood = networks.matcher, networks.likelihood

    @property
    def networks(self) -> Networks:
        """What search, judgement and refinement compare by."""
        return Networks(self.matcher, self.likelihood)

    def forward(
        self,
        fixed: Tensor,
        moving: Tensor,
        moving_valid: Tensor | None = None,
        reporter: Reporter | None = None,
    ) -> Estimate:
        """Register a pair (1, 1, H, W) in [0, 1] of one size."""
        from napari_busref.registration.candidates import Options, find
        from napari_busref.registration.pyramid import View
        from napari_busref.runtime.stopwatch import Stopwatch

        ones = fixed.new_ones(fixed.shape)
        valid = ones if moving_valid is None else moving_valid
        return find(
            dict(self.one_shot.items()),
            Reference(self.networks, View(fixed, ones)),
            View(moving, valid),
            Estimate(identity_theta(1, fixed)),
            Options(),
            reporter or Reporter(),
            Stopwatch(),
        ).estimate


def load_auto() -> Auto:
    """The shipped default: BusReF and SuperFusion propose, the matching networks refine."""
    one_shot = {name: load_model(name, kind="registration") for name in ("busref", "superfusion")}
    return Auto(one_shot, Networks.load())
