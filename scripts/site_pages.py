"""Pages and links that the documentation site adds to docs/ (a hook of mkdocs, see mkdocs.yml).

- CONTRIBUTING.md, CHANGELOG.md and training/README.md become pages; the examples become a gallery.
- A link to a file that the site does not hold leads to the repository where its address is known
  (BUSREF_REPOSITORY or GitHub Actions). Elsewhere the link becomes plain text.
- An entry `folder/*.md` of the navigation stands for every page of that folder.
"""

from __future__ import annotations

import ast
import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "training/README.md": "training.md",
    "examples": "gallery.md",
}
PICTURES = {
    "01_two_arrays": "thermal.jpg",
    "03_napari_session": "napari.jpg",
    "04_apply_to_labels": "carry-over.png",
    "05_train_tiny_model": "training.png",
    "06_satellite_pair": "satellite-done.png",
}
_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\[\]]*)\]\((?![a-z]+:|#)(?P<target>[^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Expand `folder/*.md` in the navigation, and drop folders without a page."""
    docs = Path(config.docs_dir)

    def expanded(entries: list) -> list:
        found = []
        for entry in entries:
            if isinstance(entry, str) and "*" in entry:
                found += sorted(path.relative_to(docs).as_posix() for path in docs.glob(entry))
            elif isinstance(entry, dict):
                ((title, value),) = entry.items()
                if isinstance(value, list) or "*" in value:
                    value = expanded(value if isinstance(value, list) else [value])
                if value:
                    found.append({title: value})
            else:
                found.append(entry)
        return found

    config.nav = expanded(config.nav or [])
    config.repo_url = config.repo_url or repository()
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of files outside docs/."""
    for source, page in PUBLISHED.items():
        if page != "index.md":
            content = gallery() if source == "examples" else (ROOT / source).read_text("utf-8")
            files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead every link to where the site holds its target."""
    source = {made: path for path, made in PUBLISHED.items() if made != "index.md"}.get(
        page.file.src_uri, f"docs/{page.file.src_uri}"
    )
    folder = source if source == "examples" else posixpath.dirname(source)

    def moved(link: re.Match[str]) -> str:
        path, _, anchor = link["target"].partition("#")
        target = posixpath.normpath(posixpath.join(folder, path))
        inside = site_page(target)
        if inside is not None and files.get_file_from_path(inside.partition("#")[0]) is not None:
            inside, _, found = inside.partition("#")
            relative = posixpath.relpath(inside, posixpath.dirname(page.file.src_uri) or ".")
            anchor = anchor or found
            return f"{link['picture']}[{link['text']}]({relative}{'#' * bool(anchor)}{anchor})"
        if target.startswith("docs/"):
            return link[0]  # mkdocs reports it as broken
        if config.repo_url:
            return f"[{link['text']}]({config.repo_url.rstrip('/')}/blob/main/{target})"
        named = posixpath.basename(target) in link["text"]
        return link["text"] if named else f"{link['text']} (`{target}`)"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [_LINK.sub(moved, part) for part in parts[::2]]
    return "".join(parts)


def site_page(target: str) -> str | None:
    """Return the page of the site for a file of the repository, with its anchor, or None."""
    if target in PUBLISHED:
        return PUBLISHED[target]
    folder, name = posixpath.split(target)
    if folder == "examples":
        return f"{PUBLISHED['examples']}#{name.removesuffix('.py')}"
    return target.removeprefix("docs/") if target.startswith("docs/") else None


def gallery() -> str:
    """Return one page that shows every example: title, description, picture and code."""
    parts = ["# Gallery", "Every example is a script that runs as it stands."]
    for path in sorted((ROOT / "examples").glob("*.py")):
        code = path.read_text("utf-8")
        tree = ast.parse(code)
        title, _, text = (ast.get_docstring(tree) or path.stem).partition("\n")
        parts += [f"## {title.rstrip('.')} {{#{path.stem}}}", text.strip("\n")]
        if picture := PICTURES.get(path.stem):
            parts.append(f"![{title.rstrip('.')}](../docs/images/{picture})")
        body = code.split('"""', 2)[2].strip()
        parts.append(f'```python title="examples/{path.name}"\n{body}\n```')
    return "\n\n".join(parts) + "\n"


def repository() -> str | None:
    """Return the address of the repository, or None where nothing names it."""
    if address := os.environ.get("BUSREF_REPOSITORY"):
        return address
    if name := os.environ.get("GITHUB_REPOSITORY"):
        return f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}"
    return None
