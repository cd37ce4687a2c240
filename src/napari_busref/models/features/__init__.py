"""Networks that describe and compare images for registration."""
