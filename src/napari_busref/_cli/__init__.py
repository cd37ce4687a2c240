"""The commands of `napari-busref`, one module for each group; `napari_busref._cli.main` joins them.

Nothing here imports torch (or numpy) before a command runs, so ``--help`` stays quick.
"""
