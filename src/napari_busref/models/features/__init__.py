"""Networks that compute and compare dense features for registration."""
