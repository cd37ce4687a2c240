"""Matching two images by the features of `napari_busref.models.matcher`: search and refinement."""
