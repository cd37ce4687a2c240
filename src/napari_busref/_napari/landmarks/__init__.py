"""The panel "Landmarks": pairs of points, and the transform fitted to them."""
