"""The camera of a viewer, under either name that napari gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["camera_of"]


def camera_of(viewer: ViewerModel) -> Any:
    """The camera of a viewer: ``viewer.scene.camera`` from napari 0.9 on."""
    scene = getattr(viewer, "scene", None)
    return viewer.camera if scene is None else scene.camera
