"""Process the pairs of two folders, and write their results: for every interface."""
