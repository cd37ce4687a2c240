"""Every example runs as it stands, in an empty folder and with warnings as errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tifffile

from napari_busref.transforms.transform import Transform

ROOT = Path(__file__).resolve().parents[2]


def run_example(name: str, folder: Path) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        # packages deprecate among themselves; anything else that is warned of fails
        "PYTHONWARNINGS": "error,ignore::DeprecationWarning,ignore::PendingDeprecationWarning",
    }
    script = ROOT / "examples" / name
    done = subprocess.run(
        [sys.executable, str(script)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == {"example-output"}
    return done.stdout


def test_two_arrays(tmp_path: Path) -> None:
    assert "quality" in run_example("01_two_arrays.py", tmp_path)
    assert len(list(tmp_path.rglob("*.png"))) == 2


def test_two_files(tmp_path: Path) -> None:
    assert "transform kept: True" in run_example("02_two_files.py", tmp_path)
    (path,) = tmp_path.rglob("*.busref.h5")
    assert Transform.load(path).displacement is not None


def test_apply_to_labels(tmp_path: Path) -> None:
    output = run_example("04_apply_to_labels.py", tmp_path)
    error = float(output.split("there and back:")[1].split("px")[0])
    assert error < 0.1


def test_satellite_pair(tmp_path: Path) -> None:
    output = run_example("06_satellite_pair.py", tmp_path)
    before, after = (
        float(output.split(f"off by the {words}:")[1].split("m")[0])
        for words in ("map", "registration")
    )
    assert before > 10 and after < 0.5
    visible, warped = (
        next(tmp_path.rglob(f"{name}.tif")) for name in ("visible", "thermal_on_visible")
    )
    with tifffile.TiffFile(visible) as one, tifffile.TiffFile(warped) as two:
        assert one.geotiff_metadata == two.geotiff_metadata
        assert one.geotiff_metadata["ModelPixelScale"] == [0.5, 0.5, 0.0]


@pytest.mark.slow
def test_train_tiny_model(tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric", reason="needs napari-busref[train]")
    assert "quality with these weights" in run_example("05_train_tiny_model.py", tmp_path)
    assert {path.stem for path in tmp_path.rglob("*.safetensors")} == {"bus", "busref"}
