"""``python -m napari_busref``: the command line."""

from napari_busref._cli.main import main

if __name__ == "__main__":
    main()
