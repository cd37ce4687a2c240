"""The notebooks run, their pages hold the same cells, and they are kept without output."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
EXECUTE = """
import sys, nbclient, nbformat
source, target, folder = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
nbclient.NotebookClient(
    notebook, timeout=300, resources={"metadata": {"path": folder}}
).execute()
nbformat.write(notebook, target)
"""


def cells(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["cells"]
    return found


def stem(path: Path) -> str:
    return path.stem


@pytest.fixture
def printed(tmp_path: Path) -> Any:
    """A function that runs a notebook and returns what its cells print and show."""
    for name in ("nbclient", "nbformat", "ipykernel", "matplotlib"):
        pytest.importorskip(name, reason="needs napari-busref[testing]")

    def run(name: str) -> tuple[str, list[dict[str, str]]]:
        source, target = ROOT / f"docs/notebooks/{name}.ipynb", tmp_path / "done.ipynb"
        folder = tmp_path / "empty"
        folder.mkdir()
        path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-c", EXECUTE, str(source), str(target), str(folder)],
            env={**os.environ, "PYTHONPATH": path, "IPYTHONDIR": str(tmp_path / "ipython")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert not list(folder.iterdir())  # its files lie in a temporary folder
        outputs = [out for cell in cells(target) for out in cell.get("outputs", [])]
        text = "".join("".join(out.get("text", "")) for out in outputs)
        return text, [out["data"] for out in outputs if "data" in out]

    return run


def numbers(pattern: str, text: str) -> list[float]:
    found = re.search(pattern, text)
    assert found, text
    return [float(one) for one in found.groups()]


@pytest.mark.slow
def test_thermal(printed: Any) -> None:
    text, shown = printed("thermal")
    assert "The registration looks right" in text
    assert numbers(r"mean error ([\d.]+) px", text)[0] < 2
    low, high = numbers(r"([\d.]+) to ([\d.]+) °C", text)
    assert 10 <= low < high <= 35
    person, _, road, _ = numbers(
        r"person: mean ([\d.]+) °C, max ([\d.]+) °C\nroad: mean ([\d.]+) °C, max ([\d.]+)", text
    )
    assert person > road + 3
    assert "warmer by 2.0 °C" in text
    assert "fused.png" in text and "thermal_on_visible.tif" in text
    assert sum("image/png" in data for data in shown) == 2
    (card,) = [data["text/html"] for data in shown if "text/html" in data]
    assert "data:image/png;base64," in "".join(card)


@pytest.mark.slow
def test_microscopy(printed: Any) -> None:
    text, _ = printed("microscopy")
    assert numbers(r"mean error ([\d.]+) px", text)[0] < 2
    before, after = numbers(r"before: ([\d.]+) µm.*\nafter: ([\d.]+) µm", text)
    assert before > 10 and after < 2
    assert "0.5 x 0.5 µm a pixel" in text
    assert "spacing=(0.5, 0.5), unit='micrometer'" in text
    assert "labels kept: True" in text


@pytest.mark.slow
def test_remote_sensing(printed: Any) -> None:
    text, _ = printed("remote_sensing")
    assert "band 4 of 4" in text and "4% of the thermal image is missing" in text
    before, after = numbers(r"map: RMSE ([\d.]+) m\n.*registration: RMSE ([\d.]+) m", text)
    assert before == pytest.approx(14.3, abs=0.1) and after < 1
    shift, turn = numbers(r"off by ([\d.]+) m and (-?[\d.]+)°", text)
    assert shift == pytest.approx(math.hypot(9, 10), abs=0.5) and turn == pytest.approx(
        -2, abs=0.2
    )
    assert "[1.0, 1.0, 0.0] [455000.0, 5400000.0]" in text


def test_there_is_one_for_each_trade() -> None:
    assert {path.stem for path in NOTEBOOKS} == {"thermal", "microscopy", "remote_sensing"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=stem)
def test_notebooks_are_kept_without_output(path: Path) -> None:
    for cell in cells(path):
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=stem)
def test_the_page_has_the_cells_of_the_notebook(path: Path) -> None:
    """`python scripts/render_notebooks.py` writes it."""
    page = path.with_suffix(".md").read_text("utf-8")
    position = 0
    for cell in cells(path):
        source = "".join(cell["source"])
        block = source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
        position = page.find(block, position)
        assert position >= 0, source
    assert "Error" not in page
