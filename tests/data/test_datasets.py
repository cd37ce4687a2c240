from __future__ import annotations

from pathlib import Path

from napari_busref.data.datasets import default_root


def test_the_data_lie_beside_the_checkout() -> None:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    assert default_root() == (folder if folder.is_dir() else None)
