"""What napari's menus open and save: readers, writers, samples, the import panel."""
