"""Defaults: the command line, then the environment, then files, then the built-in ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from napari_busref._cli.command import KEYS
from napari_busref._cli.main import app
from napari_busref.images.io import write_image
from napari_busref.runtime.options import OPTIONS


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def default(option: str, *arguments: str, command: str = "register") -> tuple[object, str]:
    """The default of an option and its source, as `config show` gives them."""
    result = invoke("config", "show", command, "--json", *arguments)
    assert result.exit_code == 0, result.output
    (row,) = [row for row in json.loads(result.stdout) if row["option"] == option]
    return row["default"], row["from"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, rng.integers(1, 255, (32, 40), dtype=np.uint8))
    return tmp_path


def used(*arguments: object) -> dict[str, object]:
    """The options that a registration reports."""
    result = invoke("register", "a.png", "b.png", "-o", "out", "--overwrite", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(Path("out", "b_report.json").read_text())["parameters"]


def test_a_file_sets_what_the_command_line_does_not() -> None:
    Path("busref.toml").write_text('model = "identity"\nrefine = "none"\n[run]\nmodel = "auto"\n')
    found = used()
    assert (found["model"], found["refine"]) == ("identity", "none")
    assert used("--refine", "affine")["refine"] == "affine"
    assert default("model") == ("identity", "busref.toml: model")
    assert default("model", command="run") == ("auto", "busref.toml: run.model")


def test_the_nearest_file_wins(user_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default("search") == (None, "built-in")
    (user_folder / "busref.toml").write_text('search = "wide"\nrefine = "affine"\n')
    assert default("search") == ("wide", f"{user_folder / 'busref.toml'}: search")
    Path("pyproject.toml").write_text('[tool.napari-busref]\nsearch = "near"\n')
    assert default("search") == ("near", "pyproject.toml: search")
    Path("busref.toml").write_text('[register]\nsearch = "none"\n')
    assert default("search") == ("none", "busref.toml: register.search")
    assert default("refine") == ("affine", f"{user_folder / 'busref.toml'}: refine")
    monkeypatch.setenv("NAPARI_BUSREF_SEARCH", "wide")
    assert default("search") == ("wide", "NAPARI_BUSREF_SEARCH")
    monkeypatch.setenv("NAPARI_BUSREF_REGISTER_SEARCH", "near")
    assert default("search") == ("near", "NAPARI_BUSREF_REGISTER_SEARCH")
    assert used("--search", "none", "--model", "identity", "--refine", "none")["search"] == "none"


def test_the_environment_overrides_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("busref.toml").write_text('model = "identity"\nrefine = "affine"\n')
    monkeypatch.setenv("NAPARI_BUSREF_REFINE", "none")
    assert used()["refine"] == "none"


@pytest.mark.parametrize("before", [True, False])
def test_one_file_alone_or_none(before: bool) -> None:
    Path("busref.toml").write_text('search = "wide"\n')
    Path("mine.toml").write_text('refine = "affine"\n')
    for option, expected in ((["--config", "mine.toml"], "affine"), (["--no-config"], None)):
        command = ["config", "show", "register", "--json"]
        result = invoke(*(option + command if before else command + option))
        rows = {row["option"]: row["default"] for row in json.loads(result.stdout)}
        assert (rows["search"], rows["refine"]) == (None, expected)


def test_fusion_models_have_one_name_in_files_and_in_the_table_of_options() -> None:
    Path("busref.toml").write_text('model = "identity"\nfusion-model = "average"\n')
    assert default("model", command="fuse") == ("average", "busref.toml: fusion_model")
    assert default("model", command="run") == ("identity", "busref.toml: model")
    assert default("model", command="finetune") == (None, "built-in")
    assert invoke("fuse", "a.png", "b.png", "-o", "out").exit_code == 0
    a, b, fused = (np.asarray(_read(name), int) for name in ("a.png", "b.png", "out/b_fused.png"))
    assert np.abs(fused - (a + b) / 2).max() <= 1


def _read(name: str) -> np.ndarray:
    from napari_busref.images.io import read_image

    return read_image(name).data


def test_names_are_those_of_the_table_of_options() -> None:
    shared = {name for keys in KEYS.values() for name, key in keys.items() if key.shared}
    assert set(OPTIONS) - {"on_cancel", "feather", "loss_weights"} <= shared


def test_every_option_but_those_of_files_of_defaults_has_a_key() -> None:
    from typer.main import get_command

    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        if name != "config":
            parameters = {each.name for each in command.params if each.param_type_name == "option"}
            assert {key.parameter for key in KEYS[name].values()} == parameters - {
                "config",
                "no_config",
                "help",
            }, name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("searhc = 1", "busref.toml: searhc: no such option, need one of above, band,"),
        ("[register]\nsteps = 1", "busref.toml: register.steps: no such option, need one of"),
        ("[regster]\na = 1", "busref.toml: [regster]: no such command, need one of apply,"),
        ('search = "far"', "busref.toml: search: got 'far', need one of 'none', 'near', 'wide'"),
        ('[register]\nfill-value = "x"', "busref.toml: register.fill_value: "),
        ("fill_value = [1]", "busref.toml: fill_value: got [1], need one number or text"),
        ("search = true", "busref.toml: search: got True, need a value"),
        ("flow = 1", "busref.toml: flow: got 1, need true or false"),
        ("band = 0", "busref.toml: band: --band: got 0, need a whole number from 1"),
        ("search = ", "busref.toml: is no TOML file: Invalid value (at "),
        ("output = 1979-05-27", "busref.toml: output: got datetime.date(1979, 5, 27), need one"),
    ],
)
def test_errors_name_the_file_and_the_key(text: str, said: str) -> None:
    Path("busref.toml").write_text(text)
    result = invoke("register", "a.png", "b.png", "-o", "out")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {said}"), result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_another_projects_file_does_no_harm() -> None:
    for text in (
        "[tool.black]\nline-length = 99\n",
        "no TOML at all",
        "[tool]\nnapari-busref = 1",
    ):
        Path("pyproject.toml").write_text(text)
        assert default("search") == (None, "built-in")


def test_what_no_file_sets_is_left_out() -> None:
    result = invoke("config", "show")
    assert result.exit_code == 0 and result.stdout == ""
    assert "built-in defaults" in result.stderr
    Path("busref.toml").write_text('[train]\ndevice = "cpu"\n')
    result = invoke("config", "show", "--quiet")
    assert (
        result.stdout
        == "command,option,default,from\ntrain,device,cpu,busref.toml: train.device\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["config", "show", "nonsense"], "COMMAND: got 'nonsense', need one of register, fuse"),
        (["models", "--config", "none.toml"], "--config: no such file: none.toml"),
        (["--config", "none.toml", "models"], "--config: no such file: none.toml"),
    ],
)
def test_unknown_files_and_commands(arguments: list[str], said: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {said}")
