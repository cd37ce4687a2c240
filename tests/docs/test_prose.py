"""The pages are plain English: short sentences, and the words of the glossary.

vale downloads its program when it first runs, and proselint does not measure sentences, so this is
a test of its own. It reads running text only: no code, tables, headings or addresses of links.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ROOT / "training" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "changes").glob("*.md")),
]
MOST_WORDS = 25
# what a page may not contain, and the word to use instead
BANNED = {
    r"spoil\w*": "degrade",
    r"hopeless\w*": "rejected",
    r"warmth": "infrared",
    r"anew": "again",
    r"by a hair": "slightly",
    r"look(?:ed|s|ing)? at": "the operation's name: compares, reads, measures",
    r"look(?:ed|s)? for": "searches",
    r"(?:is|are|was|were) (?:judged|asked|told)": "is scored, is computed, receives",
    r"by (?:it|them)sel(?:f|ves)": "alone",
    r"of (?:its|their) own": "separate",
    r"such ones": "these",
    r"nothing to go by": "no texture, no valid pixel",
    r"way (?:there|back)": "forward transform, backward registration",
    r"round trip": "inverse consistency",
    r"emptiness": "zero padding",
    r"grey veil": "low contrast",
}
# records of decisions may name what was renamed
RENAMED = {
    r"Look and judge": "Compare",
    r"Carry over": "Apply transform",
    r"Train on my data": "Fine-tune",
}
_SENTENCE_END = re.compile(r"(?<=[.!?])[)\"*_]*\s+(?=[\"(*_\[]*[A-Z0-9§`])")
_ABBREVIATION = re.compile(r"\b(e\.g|i\.e|et al|cf|vs|approx|no|Fig|Eq|Sec|resp)\.")
_ITEM = re.compile(r"\s*(?:[-*+]|\d+\.)\s+")


def page_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def paragraphs(markdown: str) -> Iterator[tuple[int, str]]:
    """Running text with the number of its first line; every list item is one paragraph."""
    first, lines, fenced = 0, list[str](), False
    for number, line in enumerate([*markdown.splitlines(), ""], 1):
        fence = line.lstrip().startswith("```")
        fenced ^= fence
        apart = fence or fenced or not line.strip() or line.lstrip().startswith(("|", "#", ":::"))
        item = _ITEM.match(line)
        if lines and (apart or item):
            yield first, " ".join(lines)
            lines = []
        if not apart:
            first = first if lines else number
            lines.append(line[item.end() if item else 0 :].strip())


def plain(text: str) -> str:
    """Text without markup: code and formulas count as one word, links as what they show."""
    text = re.sub(r"`+[^`]*`+|\$[^$]+\$", "CODE", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)|<[^>]+>", "", text)
    text = re.sub(r"\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])?", r"\1", text)
    return _ABBREVIATION.sub(r"\1", text)


def sentences(text: str) -> list[str]:
    return [one for one in _SENTENCE_END.split(text) if one.strip()]


def words(sentence: str) -> int:
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_no_sentence_is_longer_than_25_words(page: Path) -> None:
    long = [
        f"{page_name(page)}:{line}: {words(one)} words: {one}"
        for line, text in paragraphs(page.read_text("utf-8"))
        for one in sentences(plain(text))
        if words(one) > MOST_WORDS
    ]
    assert not long, "split these sentences:\n" + "\n".join(long)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_pages_use_the_words_of_the_glossary(page: Path) -> None:
    banned = BANNED if page.parent.name == "decisions" else BANNED | RENAMED
    found = [
        f"{page_name(page)}:{line}: {match[0]!r}: write {use}"
        for line, text in paragraphs(page.read_text("utf-8"))
        for pattern, use in banned.items()
        for match in re.finditer(rf"\b{pattern}\b", plain(text))
    ]
    assert not found, "replace these words:\n" + "\n".join(found)


def test_running_text_is_told_from_code_tables_and_headings() -> None:
    page = (
        "# No\n\nOne `a b`,\ntwo. [Three](x y)!\n\n| no |\n\n```\nno\n```\n- four\n  five\n- six\n"
    )
    assert [(line, sentences(plain(text))) for line, text in paragraphs(page)] == [
        (3, ["One CODE, two.", "Three!"]),
        (11, ["four five"]),
        (13, ["six"]),
    ]


def test_abbreviations_and_numbers_end_no_sentence() -> None:
    text = plain("Sizes, e.g. 0.5 px (see Fig. 2), by Bai et al. 2023. Next.")
    assert [words(one) for one in sentences(text)] == [12, 1]
