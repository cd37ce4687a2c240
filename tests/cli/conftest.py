from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest


@pytest.fixture(autouse=True)
def user_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's file of defaults: empty, whatever the machine has."""
    folder = tmp_path_factory.mktemp("user")
    monkeypatch.setattr(platformdirs, "user_config_path", lambda *names, **options: folder)
    return folder
