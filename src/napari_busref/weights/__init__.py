"""The shipped weights: NAME.safetensors, each with its card NAME.json. No code is here."""
