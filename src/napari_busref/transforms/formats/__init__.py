"""Transform files of this and other programs: one module per format, chosen by `files`."""

from napari_busref.transforms.formats.files import TransformFile, read_transform, write_transform
from napari_busref.transforms.formats.grid import ImageGrid

__all__ = ["ImageGrid", "TransformFile", "read_transform", "write_transform"]
