"""A street at dusk, seen by a visible and a thermal camera: a small procedural renderer."""
