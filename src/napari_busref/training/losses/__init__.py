"""Loss terms, one module a system."""
