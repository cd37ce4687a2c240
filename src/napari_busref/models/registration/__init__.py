"""Networks that estimate a transform."""
