"""The panel that registers and fuses all pairs of two folders."""
