"""Absolute links and project URLs for the package page. All other metadata is in setup.cfg.

A package index shows README.md without the repository around it, so relative pictures and links
break there. Where the repository is known, they become absolute. It is known on GitHub Actions,
or from the environment variable BUSREF_REPOSITORY (https://github.com/OWNER/NAME).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from setuptools import setup

# the target of a Markdown link or picture: neither absolute nor an anchor of the page itself
_TARGET = re.compile(r"(?P<picture>!?)\[(?P<text>[^\[\]]*)\]\((?![a-z]+:|#)(?P<target>[^)\s]+)\)")


def repository() -> str | None:
    """Return the address of the repository, or None where nothing names it."""
    if address := os.environ.get("BUSREF_REPOSITORY"):
        return address.rstrip("/")
    if name := os.environ.get("GITHUB_REPOSITORY"):
        return f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}"
    return None


def absolute_links(markdown: str, address: str, ref: str) -> str:
    """Return the page with every relative link and picture at its address in the repository."""

    def absolute(link: re.Match[str]) -> str:
        kind = "raw" if link["picture"] else "blob"
        return f"{link['picture']}[{link['text']}]({address}/{kind}/{ref}/{link['target']})"

    return _TARGET.sub(absolute, markdown)


def metadata() -> dict[str, object]:
    """Return the metadata that depends on the repository: none where it is unknown."""
    address = repository()
    if address is None:
        return {}
    ref = os.environ.get("GITHUB_SHA", "main")
    readme = Path(__file__).with_name("README.md").read_text("utf-8")
    return {
        "long_description": absolute_links(readme, address, ref),
        "project_urls": {
            "Source": address,
            "Issues": f"{address}/issues",
            "Documentation": f"{address}/blob/{ref}/docs/index.md",
            "Changelog": f"{address}/blob/{ref}/CHANGELOG.md",
        },
    }


if __name__ == "__main__":
    setup(**metadata())
