"""The panel that applies a transform to other layers."""
