"""Images as arrays: files, number types, preparation for models, comparison."""
