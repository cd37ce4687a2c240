"""The panel that fine-tunes on the user's own pairs."""
