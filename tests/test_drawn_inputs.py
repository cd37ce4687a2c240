"""A few drawn inputs for every function; `drawn_inputs` runs a thousand."""

from __future__ import annotations

import pytest

import drawn_images
import drawn_inputs

# by function: quick ones run more examples
EXAMPLES = {
    "made": 80,
    "algebra": 60,
    "apply": 80,
    "files": 20,
    "images": 60,
    "compare": 40,
    "scores": 15,
}


@pytest.mark.parametrize(("name", "examples"), EXAMPLES.items())
def test_drawn_inputs_are_answered_or_refused_by_name(name, examples):
    drawn_inputs.run(name, examples)


@pytest.mark.parametrize(("name", "examples"), [("fuse", 12), ("register", 5)])
def test_drawn_pairs_are_answered_or_refused_by_name(name, examples):
    drawn_inputs.run(name, examples, drawn_images.SMALL[:2])
