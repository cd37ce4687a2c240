"""One module per stage: the model, its batches, its loss and its validation."""

from __future__ import annotations

import pkgutil

from napari_busref.training.recipe import Recipe
from napari_busref.training.stage_names import STAGE_CLASSES
from napari_busref.training.stages.base import Stage


def build_stage(recipe: Recipe) -> Stage:
    """Build the stage of a recipe, and load the weights that it starts from."""
    kind = pkgutil.resolve_name(f"{__name__}.{STAGE_CLASSES[recipe.stage]}")
    stage: Stage = kind(recipe)
    if recipe.start_from:
        stage.load_start()
    return stage


__all__ = ["Stage", "build_stage"]
