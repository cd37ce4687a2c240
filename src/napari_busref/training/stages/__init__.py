"""One module a stage: what is trained, on which batches, with which loss, how it is measured."""

from __future__ import annotations

from napari_busref.training.recipe import Recipe
from napari_busref.training.stages.base import Stage


def build_stage(recipe: Recipe) -> Stage:
    """The stage that a recipe trains, with the weights that it starts from."""
    stage = _build(recipe)
    if recipe.start_from:
        stage.load_start()
    return stage


def _build(recipe: Recipe) -> Stage:
    if recipe.stage == "bus":
        from napari_busref.training.stages.bus import BusStage

        return BusStage(recipe)
    if recipe.stage == "gaf":
        from napari_busref.training.stages.gaf import GafStage

        return GafStage(recipe)
    if recipe.stage == "matcher":
        from napari_busref.training.stages.matcher import MatcherStage

        return MatcherStage(recipe)
    if recipe.stage == "likelihood":
        from napari_busref.training.stages.likelihood import LikelihoodStage

        return LikelihoodStage(recipe)
    if recipe.stage == "superfusion":
        from napari_busref.training.stages.superfusion import SuperFusionStage

        return SuperFusionStage(recipe)
    if recipe.stage == "superfusion-fusion":
        from napari_busref.training.stages.superfusion_fusion import SuperFusionFusionStage

        return SuperFusionFusionStage(recipe)
    if recipe.stage == "mda":
        from napari_busref.training.stages.mda import MdaStage

        return MdaStage(recipe)
    if recipe.stage == "refusion":
        from napari_busref.training.stages.refusion import ReFusionStage

        return ReFusionStage(recipe)
    from napari_busref.training.stages.registration import RegistrationStage

    return RegistrationStage(recipe)


__all__ = ["Stage", "build_stage"]
