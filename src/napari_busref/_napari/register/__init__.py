"""The panel *Register and fuse*, and `register_layers` for scripts."""
