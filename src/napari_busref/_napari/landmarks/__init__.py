"""The panel for corresponding points."""
