"""The panel "Fine-tune": training on pairs of the user."""
