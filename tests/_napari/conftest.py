"""The tests of layers do not read the Preferences of whoever runs them."""

from __future__ import annotations

import pytest

pytest.importorskip("napari")

from napari_busref._napari.layers import trades


@pytest.fixture(autouse=True)
def default_trade(monkeypatch):
    monkeypatch.setattr(trades, "stored_group", lambda name: None)
    monkeypatch.setattr(trades, "_chosen", "thermal")
