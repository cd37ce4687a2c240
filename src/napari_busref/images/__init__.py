"""Images as arrays: files, types, preparation for the networks, comparison of two."""
