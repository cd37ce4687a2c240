"""The commands of `napari-busref`, one module for each group; `main` joins them.

No module imports torch or numpy before a command runs. That keeps ``--help`` quick.
"""
