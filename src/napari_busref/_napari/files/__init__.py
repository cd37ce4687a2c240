"""Readers, writers and sample data for napari's menus, and the import panel."""
