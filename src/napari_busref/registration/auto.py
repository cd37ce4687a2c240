"""The default model: BusReF proposes, search proposes, refinement decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from napari_busref.geometry import Estimate, identity_theta
from napari_busref.models import load_model
from napari_busref.models.features.likelihood import Likelihood
from napari_busref.models.features.matcher import Matcher
from napari_busref.models.registry import build_architecture
from napari_busref.registration.candidates import match
from napari_busref.registration.context import RunContext
from napari_busref.registration.features import FixedFeatures, MatchingNetworks
from napari_busref.registration.pyramid import MaskedImage
from napari_busref.registration.stages import registration_stages
from napari_busref.runtime.progress import Plan, Reporter

__all__ = ["Auto", "auto_of_parts", "load_auto"]


class Auto(nn.Module):
    """Proposal networks, and the networks of search and refinement.

    `napari_busref.register` passes the parts to `napari_busref.registration.candidates.match`.
    Called as a module, it does the same for images of one size.

    Parameters
    ----------
    proposal_networks : mapping
        Registration networks by name.
    networks : MatchingNetworks
        The networks of search and refinement.
    """

    def __init__(
        self, proposal_networks: Mapping[str, nn.Module], networks: MatchingNetworks
    ) -> None:
        super().__init__()
        self.proposal_networks = nn.ModuleDict(proposal_networks)
        self.matcher, self.likelihood = networks.matcher, networks.likelihood

    @property
    def networks(self) -> MatchingNetworks:
        """The networks of search and refinement."""
        return MatchingNetworks(self.matcher, self.likelihood)

    def settings(self) -> dict[str, object]:
        """The configurations of all networks as plain values, for the card."""
        proposals: dict[str, Any] = dict(self.proposal_networks.items())
        return {
            "matcher": self.matcher.settings(),
            "likelihood": self.likelihood.settings(),
            "proposal_networks": {
                name: {"architecture": type(network).__name__, "config": network.settings()}
                for name, network in proposals.items()
            },
        }

    def forward(
        self,
        fixed: Tensor,
        moving: Tensor,
        moving_valid: Tensor | None = None,
        reporter: Reporter | None = None,
    ) -> Estimate:
        """Register a pair (1, 1, H, W) in [0, 1] of one size."""
        ones = fixed.new_ones(fixed.shape)
        return match(
            dict(self.proposal_networks.items()),
            FixedFeatures(self.networks, MaskedImage(fixed, ones)),
            MaskedImage(moving, ones if moving_valid is None else moving_valid),
            Estimate(identity_theta(1, fixed)),
            RunContext(plan=Plan(reporter, registration_stages(tuple(fixed.shape), self))),
        ).estimate


def load_auto() -> Auto:
    """Load the shipped default, with BusReF as its proposal network."""
    networks = {"busref": load_model("busref", kind="registration")}
    # not `MatchingNetworks.load`, which shares its networks: training changes those of a set
    matcher, likelihood = (load_model(name) for name in ("matcher", "likelihood"))
    assert isinstance(matcher, Matcher)
    assert isinstance(likelihood, Likelihood)
    return Auto(networks, MatchingNetworks(matcher, likelihood))


def auto_of_parts(
    matcher: dict[str, Any], likelihood: dict[str, Any], proposal_networks: dict[str, Any]
) -> Auto:
    """Build a user's set of networks from `Auto.settings`; the weights are random."""
    return Auto(
        {name: build_architecture(**network) for name, network in proposal_networks.items()},
        MatchingNetworks(Matcher(**matcher), Likelihood(**likelihood)),
    )
