"""Matching two images by the features of `napari_busref.models.features.matcher`: search and refinement."""

SEARCHES = ("near", "wide", "none")
REFINEMENTS = ("dense", "affine", "none")
TRANSFORMS = ("affine", "homography")
"""What `napari_busref.register` accepts for ``search``, ``refine`` and ``transform``."""
