"""A procedural renderer of a street at dusk for a visible and a thermal camera."""
