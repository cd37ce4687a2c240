from __future__ import annotations

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest

import napari_busref
from napari_busref.fusion.tasks import TASKS
from napari_busref.images.io import read_image, read_plane
from napari_busref.runtime.options import OPTIONS, check_choice, check_number

NOT_IN_THE_TABLE = {  # images, masks, transforms and callbacks
    "fixed",
    "moving",
    "mask",
    "initial",
    "fixed_mask",
    "moving_mask",
    "progress",
    "cancel",
}


def tabled(function):
    """The parameters of a function by their names in the table."""
    names = {"model": "fusion_model"} if function == "fuse" else {}
    left_out = NOT_IN_THE_TABLE | ({"transform"} if function == "fuse" else set())
    parameters = inspect.signature(getattr(napari_busref, function)).parameters
    return {names.get(n, n): p for n, p in parameters.items() if n not in left_out}


@pytest.mark.parametrize("function", ["register", "fuse", "register_and_fuse"])
def test_signatures_have_the_defaults_and_choices_of_the_table(function):
    parameters = tabled(function)
    assert set(parameters) <= set(OPTIONS)
    for name, parameter in parameters.items():
        option = OPTIONS[name]
        assert parameter.default == option.default, name
        literals = [
            node.slice
            for node in ast.walk(ast.parse(parameter.annotation))
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal"
        ]
        if literals and name != "tile":
            assert set(ast.literal_eval(literals[0])) == set(option.values), name


def test_every_option_belongs_to_a_function():
    used = {name for f in ("register", "fuse", "register_and_fuse") for name in tabled(f)}
    assert used | {"memory_limit"} == set(OPTIONS)


@pytest.mark.parametrize(
    "reader", [read_image, read_plane, napari_busref.read_transform, napari_busref.Transform.load]
)
def test_every_reader_has_the_limit_of_the_table(reader):
    parameter = inspect.signature(reader).parameters["memory_limit"]
    assert parameter.default == OPTIONS["memory_limit"].default


def test_tasks_are_those_with_a_fusion_model():
    assert OPTIONS["task"].values == tuple(TASKS)


def test_help_is_one_line_and_ends_as_a_sentence():
    for option in OPTIONS.values():
        for line in option.lines:
            assert "\n" not in line and len(line) <= 99
        assert option.help.endswith(".")


def test_the_manifest_offers_what_the_table_does():
    yaml = pytest.importorskip("yaml")
    manifest = Path(napari_busref.__file__).with_name("napari.yaml").read_text()
    group = yaml.safe_load(manifest)["contributions"]["configurations"]["registration"]
    described = group["properties"]
    shared = [name for name in described if name in OPTIONS and name != "on_cancel"]
    assert len(shared) == 14  # `on_cancel` has other values in the panel
    for name in shared:
        option, entry = OPTIONS[name], described[name]
        automatic = ["automatic"] if option.default is None else []
        assert entry["default"] == (automatic[0] if automatic else option.default), name
        assert entry["description"] == option.help, name
        assert entry.get("enum", []) == (automatic if option.values else []) + list(option.values)
        if option.limits is not None:
            assert (entry["minimum"], entry["maximum"]) == option.limits


@pytest.mark.parametrize("value", ["far", True, 1, ["near"], np.zeros(2)])
def test_choices_are_checked(value):
    with pytest.raises(ValueError, match=r"search: got .*, need one of 'none', 'near', 'wide'"):
        check_choice("search", value)


def test_only_an_option_that_is_chosen_automatically_may_be_none():
    check_choice("search", None)
    with pytest.raises(ValueError, match="transform: got None, need one of 'affine', 'homo"):
        check_choice("transform", None)


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, np.inf, "half", None, True])
def test_numbers_are_checked(value):
    with pytest.raises(ValueError, match=r"detail: got .*, need a number in \[0, 1\]"):
        check_number("detail", value)


def test_a_number_without_an_upper_limit():
    assert check_number("feather", np.float32(2)) == 2.0
    with pytest.raises(ValueError, match="feather: got -1, need a number of at least 0"):
        check_number("feather", -1)
