"""The default way to register: several candidates, a judge, refinement."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from napari_busref.geometry import Estimate, identity_theta
from napari_busref.models import load_model
from napari_busref.registration.features import FixedFeatures, MatchingNetworks
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

    def __init__(
        self, proposal_networks: Mapping[str, nn.Module], networks: MatchingNetworks
    ) -> None:
        super().__init__()
        self.proposal_networks = nn.ModuleDict(proposal_networks)
        self.matcher, self.likelihood = networks.matcher, networks.likelihood

    @property
    def networks(self) -> MatchingNetworks:
        """What search, judgement and refinement compare by."""
        return MatchingNetworks(self.matcher, self.likelihood)

    def forward(
        self,
        fixed: Tensor,
        moving: Tensor,
        moving_valid: Tensor | None = None,
        reporter: Reporter | None = None,
    ) -> Estimate:
        """Register a pair (1, 1, H, W) in [0, 1] of one size."""
        from napari_busref.registration.candidates import Options, find
        from napari_busref.registration.pyramid import MaskedImage
        from napari_busref.runtime.stopwatch import Stopwatch

        ones = fixed.new_ones(fixed.shape)
        valid = ones if moving_valid is None else moving_valid
        return find(
            dict(self.proposal_networks.items()),
            FixedFeatures(self.networks, MaskedImage(fixed, ones)),
            MaskedImage(moving, valid),
            Estimate(identity_theta(1, fixed)),
            Options(),
            reporter or Reporter(),
            Stopwatch(),
        ).estimate


def load_auto() -> Auto:
    """The shipped default: BusReF and SuperFusion propose, the matching networks refine."""
    proposal_networks = {
        name: load_model(name, kind="registration") for name in ("busref", "superfusion")
    }
    return Auto(proposal_networks, MatchingNetworks.load())
