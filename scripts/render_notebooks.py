"""Run the notebooks of docs/notebooks and write the page of each, with its output and pictures.

    python scripts/render_notebooks.py [NAME ...]

The notebooks are kept without output. Their pages are docs/notebooks/NAME.md, with the pictures in
docs/images. Needs nbclient, nbformat and ipykernel (napari-busref[testing]).
"""

from __future__ import annotations

import argparse
import base64
import io
import re
import tempfile
from pathlib import Path
from typing import Any

import nbclient
import nbformat
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "docs" / "notebooks"
PICTURES = ROOT / "docs" / "images"
_ESCAPE_CODES = re.compile(r"\x1b\[[0-9;]*m")


def main(names: list[str]) -> None:
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        notebook = run(path)
        page = NOTEBOOKS / f"{path.stem}.md"
        page.write_text(markdown(notebook, path.stem), "utf-8")
        print(page.relative_to(ROOT))


def run(path: Path) -> Any:
    """Execute a notebook in an empty folder and return it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    return notebook


def markdown(notebook: Any, name: str) -> str:
    """The page of an executed notebook; its pictures are written."""
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            if output.get("name") == "stderr":  # warnings of other packages
                continue
            parts += shown(output, f"notebook-{name}-{cell.id.rpartition('-')[2]}.jpg")
    title, *rest = parts
    link = f"This page is the notebook [`{name}.ipynb`]({name}.ipynb) with its output."
    return "\n\n".join([title, link, *rest]) + "\n"


def shown(output: Any, picture: str) -> list[str]:
    """One output as Markdown: a picture as a file, anything else as text."""
    data = output.get("data", {})
    if "image/png" in data:
        image = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
        image.save(PICTURES / picture, quality=80, optimize=True)
        return [f"![Output of the cell above](../images/{picture})"]
    text = output.get("text") or data.get("text/plain", "")
    return [f"```text\n{_ESCAPE_CODES.sub('', text).rstrip()}\n```"] if text else []


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*")
    main(parser.parse_args().names)
