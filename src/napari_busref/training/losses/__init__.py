"""Loss terms, one module per system."""
