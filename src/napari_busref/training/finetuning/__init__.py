"""Fine-tune shipped weights on a user's own aligned pairs."""
