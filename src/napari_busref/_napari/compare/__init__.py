"""The panel "Compare": two layers in one picture, and in numbers."""
