"""The command line. `identity` and `average` need no weights, so most runs are real and quick."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner, Result

from napari_busref import load_sample
from napari_busref._cli.main import app
from napari_busref.fusion import fuse as fuse_images
from napari_busref.images.io import read_image, write_image
from napari_busref.registration import RegistrationResult, register
from napari_busref.runtime.progress import check
from napari_busref.transforms.formats import ImageGrid, TransformFile, write_transform
from napari_busref.transforms.transform import Transform, read_metadata

FAST = ["--model", "identity", "--device", "cpu"]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def error_line(result: Result) -> str:
    """The only line of a refusal; the exit code must be that of bad input."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("Error: ")
    return lines[0]


@pytest.fixture
def images(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A colour visible and a grey infrared image of the same size."""
    return (
        rng.integers(1, 255, (48, 64, 3), dtype=np.uint8),
        rng.integers(1, 60_000, (48, 64), dtype=np.uint16),
    )


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def files(tmp_path: Path, images: tuple[np.ndarray, np.ndarray]) -> tuple[Path, Path]:
    fixed, moving = tmp_path / "visible.tif", tmp_path / "infrared.png"
    resolution = {"resolution": (40, 50), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(fixed, images[0], photometric="rgb", **resolution)
    write_image(moving, images[1])
    return fixed, moving


@pytest.fixture
def folders(tmp_path: Path, images: tuple[np.ndarray, np.ndarray]) -> tuple[Path, Path]:
    visible, infrared = tmp_path / "visible", tmp_path / "infrared"
    visible.mkdir()
    infrared.mkdir()
    for name in ("a", "b"):
        write_image(visible / f"{name}.png", images[0])
        write_image(infrared / f"{name}.tif", images[1])
    return visible, infrared


def test_every_command_has_help_without_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner\n"
        "from napari_busref._cli.main import app\n"
        "for command in 'register fuse run apply evaluate train models demo'.split():\n"
        "    result = CliRunner().invoke(app, [command, '--help'])\n"
        "    assert result.exit_code == 0 and command in result.output, result.output\n"
        "heavy = {'torch', 'numpy', 'scipy', 'napari', 'qtpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=_environment())


def test_register_writes_image_mask_transform_and_report(
    tmp_path: Path, files: tuple[Path, Path], images: tuple[np.ndarray, np.ndarray]
) -> None:
    out = tmp_path / "new" / "out"
    result = invoke("register", *files, "-o", out, "--flow", *FAST)
    assert result.exit_code == 0, result.output

    warped = read_image(out / "infrared_warped.tif")
    np.testing.assert_array_equal(warped.data, images[1])  # the identity changes nothing
    assert warped.data.dtype == np.uint16
    assert warped.metadata["resolution"] == ((40, 1), (50, 1))
    assert warped.metadata["resolution_unit"] == "cm"
    assert set(np.unique(read_image(out / "infrared_mask.tif").data)) == {255}
    assert Transform.load(out / "infrared.busref.h5").fixed_shape == (48, 64)
    assert np.load(out / "infrared_flow.npy").shape == (2, 48, 64)
    report = json.loads((out / "infrared_report.json").read_text())
    assert report["parameters"]["model"] == "identity"
    assert 0 <= report["quality"]["score"] <= 1
    assert report["timings"]
    for path in report["outputs"].values():
        assert Path(path).is_file()


def test_results_that_appear_during_the_work_are_kept(
    tmp_path: Path,
    files: tuple[Path, Path],
    images: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = register(*images, model="identity", device="cpu")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("infrared_warped.tif", "infrared_mask.tif", "infrared.busref.h5"):

        def meanwhile(*_: object, name: str = name, **__: object) -> RegistrationResult:
            (out / name).write_text("of someone else")
            return result

        monkeypatch.setattr("napari_busref.registration.register", meanwhile)
        assert f"{name} exists" in error_line(invoke("register", *files, "-o", out, *FAST))
        assert (out / name).read_text() == "of someone else"
        for path in out.iterdir():
            path.unlink()


def test_run_from_a_given_transform_fuses_and_names_a_doubtful_result(
    tmp_path: Path, files: tuple[Path, Path], images: tuple[np.ndarray, np.ndarray]
) -> None:
    shift = Transform(
        [[1, 0, 3], [0, 1, -5], [0, 0, 1]], fixed_shape=(48, 64), moving_shape=(48, 64)
    )
    shift.save(tmp_path / "start.busref.h5")
    out = tmp_path / "out"
    start = ["--initial", tmp_path / "start.busref.h5", "--format", "npy"]
    result = invoke("run", *files, "-o", out, "--fusion-model", "average", *start, *FAST)
    assert result.exit_code == 0, result.output

    warped, mask = np.load(out / "infrared_warped.npy"), np.load(out / "infrared_mask.npy")
    np.testing.assert_array_equal(warped[:45, 5:], images[1][3:, :-5])
    assert mask.dtype == bool
    assert not mask[:, :5].any() and not mask[45:].any() and mask[:45, 5:].all()
    fused = np.load(out / "infrared_fused.npy")
    assert fused.dtype == np.uint8 and fused.shape == (48, 64, 3)
    np.testing.assert_array_equal(fused[~mask], images[0][~mask])
    assert (fused[mask] != images[0][mask]).any()


def test_outputs_are_kept_unless_asked(tmp_path: Path, files: tuple[Path, Path]) -> None:
    out = tmp_path / "out"
    command = ["register", *files, "-o", out, *FAST]
    assert invoke(*command).exit_code == 0
    before = (out / "infrared_report.json").stat().st_mtime_ns
    line = error_line(invoke(*command))
    assert "--overwrite" in line and "infrared" in line
    assert (out / "infrared_report.json").stat().st_mtime_ns == before
    # the same result in another image format is in the way too
    assert "--overwrite" in error_line(invoke(*command, "--format", "npy"))
    assert invoke(*command, "--overwrite").exit_code == 0
    assert (out / "infrared_report.json").stat().st_mtime_ns > before


def test_folders_go_on_after_a_bad_pair(
    tmp_path: Path, folders: tuple[Path, Path], images: tuple[np.ndarray, np.ndarray]
) -> None:
    visible, infrared = folders
    (infrared / "a.tif").write_bytes(b"no image")
    write_image(visible / "alone.png", images[0])
    out = tmp_path / "out"
    result = invoke("run", visible, infrared, "-o", out, "--fusion-model", "average", *FAST)
    assert result.exit_code == 1
    assert "a failed" in result.stderr and "a.tif" in result.stderr
    assert "alone.png" in result.stderr
    assert (out / "b_fused.png").is_file() and (out / "b_warped.png").is_file()
    with (out / "summary.csv").open(newline="") as stream:
        rows = {row["name"]: row for row in csv.DictReader(stream)}
    assert set(rows) == {"a", "b"}
    assert rows["a"]["status"] == "failed" and "TIF" in rows["a"]["message"]
    assert rows["b"]["status"] in ("ok", "doubtful") and float(rows["b"]["overlap"]) == 1


def test_fuse_from_a_transform_with_emphasis_and_tiles(
    tmp_path: Path, files: tuple[Path, Path], images: tuple[np.ndarray, np.ndarray]
) -> None:
    shift = Transform(
        [[1, 0, 3], [0, 1, -5], [0, 0, 1]], fixed_shape=(48, 64), moving_shape=(48, 64)
    )
    shift.save(tmp_path / "pair.busref.h5")
    wanted = {"infrared": 0.9, "detail": 0.2, "task": "medical"}
    options = [word for name, value in wanted.items() for word in (f"--{name}", value)]
    options += ["--model", "average", "--device", "cpu", "--tile", "32", "--format", "npy"]
    apply = ["--apply", tmp_path / "pair.busref.h5"]
    result = invoke("fuse", *files, "-o", tmp_path / "out", *apply, *options)
    assert result.exit_code == 0, result.output
    fused = np.load(tmp_path / "out" / "infrared_fused.npy")
    expected = fuse_images(
        *images, model="average", transform=shift, device="cpu", tile=32, **wanted
    )
    np.testing.assert_array_equal(fused, expected.fused)

    start = ["--initial", tmp_path / "pair.busref.h5", "--fusion-model", "average"]
    run = [*start, *options[:6], "--format", "npy", *FAST]
    result = invoke("run", *files, "-o", tmp_path / "run", *run)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "run" / "infrared_report.json").read_text())
    assert {name: report["fusion"]["parameters"][name] for name in wanted} == wanted
    out = ["-o", tmp_path / "bad"]
    assert "task: got 'x'" in error_line(invoke("fuse", *files, *out, "--task", "x"))
    assert "infrared: got 2.0" in error_line(invoke("fuse", *files, *out, "--infrared", "2"))


def test_options_are_checked_before_any_pair_of_a_folder(
    tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    command = ["run", *folders, "-o", tmp_path / "out"]
    for option, value in (("search", "far"), ("refine", "much"), ("task", "x"), ("detail", 2)):
        assert f"{option}: got" in error_line(invoke(*command, f"--{option}", value))
    assert not (tmp_path / "out").exists()


def test_register_then_fuse_folders(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    visible, infrared = folders
    out, fused = tmp_path / "out", tmp_path / "fused"
    assert invoke("register", visible, infrared, "-o", out, *FAST).exit_code == 0
    fuse = ["fuse", visible, out, "--mask", out, "-o", fused, "--model", "average"]
    result = invoke(*fuse, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert {path.name for path in fused.glob("*_fused.png")} == {"a_fused.png", "b_fused.png"}


def test_fuse_keeps_the_visible_image_outside_the_mask(
    tmp_path: Path, files: tuple[Path, Path], images: tuple[np.ndarray, np.ndarray]
) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[:, 32:] = 255
    write_image(tmp_path / "mask.png", mask)
    options = ["--mask", tmp_path / "mask.png", "--model", "average", "--device", "cpu"]
    result = invoke("fuse", *files, "-o", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    fused = read_image(tmp_path / "out" / "infrared_fused.tif")
    np.testing.assert_array_equal(fused.data[:, :32], images[0][:, :32])
    assert (fused.data[:, 40:] != images[0][:, 40:]).any()
    assert fused.metadata["resolution"] == ((40, 1), (50, 1))


def test_apply_carries_labels_both_ways(tmp_path: Path, rng: np.random.Generator) -> None:
    shift = Transform(
        [[1, 0, 2], [0, 1, 1], [0, 0, 1]], fixed_shape=(20, 30), moving_shape=(24, 32)
    )
    metadata = {"fixed_image": {"spacing": [0.5, 0.25], "unit": "mm"}}
    shift.save(tmp_path / "t.busref.h5", metadata=metadata)
    labels = rng.integers(0, 2**31, (24, 32)).astype(np.int32)
    write_image(tmp_path / "labels.tif", labels)

    there = tmp_path / "there.tif"
    command = ["apply", tmp_path / "t.busref.h5", tmp_path / "labels.tif", "--order", 0]
    result = invoke(*command, "-o", there)
    assert result.exit_code == 0, result.output
    warped = read_image(there)
    np.testing.assert_array_equal(warped.data, labels[2:22, 1:31])
    assert warped.metadata["spacing"] == pytest.approx((0.05, 0.025))  # in cm: TIFF has no mm
    assert "--overwrite" in error_line(invoke(*command, "-o", there))

    back = ["apply", tmp_path / "t.busref.h5", there, "--inverse", "--order", 0]
    assert invoke(*back, "-o", tmp_path / "back.npy").exit_code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "back.npy")[2:22, 1:31], labels[2:22, 1:31])


def test_apply_knows_the_pixel_size_of_a_transform_from_napari(tmp_path: Path) -> None:
    shift = Transform(np.eye(3), fixed_shape=(20, 30), moving_shape=(20, 30))
    grid = ImageGrid((20, 30), spacing=(0.5, 0.25), unit="mm")
    write_transform(tmp_path / "t.busref.h5", shift, fixed=grid)
    write_image(tmp_path / "image.tif", np.zeros((20, 30), np.uint8))
    command = ["apply", tmp_path / "t.busref.h5", tmp_path / "image.tif"]
    assert invoke(*command, "-o", tmp_path / "there.tif").exit_code == 0
    spacing = read_image(tmp_path / "there.tif").metadata["spacing"]
    assert spacing == pytest.approx((0.05, 0.025))
    # the moving grid is in pixels
    assert invoke(*command, "--inverse", "-o", tmp_path / "back.tif").exit_code == 0
    assert "spacing" not in read_image(tmp_path / "back.tif").metadata


def test_apply_says_which_plane_of_a_stack_it_takes(tmp_path: Path) -> None:
    shift = Transform(np.eye(3), fixed_shape=(20, 30), moving_shape=(20, 30))
    grids = {"fixed": ImageGrid((20, 30)), "moving": ImageGrid((20, 30))}
    planes = {(index,): TransformFile(shift, **grids) for index in range(3)}
    stack = write_transform(tmp_path / "stack.busref.h5", shift, **grids, planes=planes)
    write_image(tmp_path / "image.tif", np.zeros((20, 30), np.uint8))
    result = invoke("apply", stack, tmp_path / "image.tif", "-o", tmp_path / "there.tif")
    assert result.exit_code == 0
    assert "3 planes" in " ".join(result.stderr.split())


def test_bad_input_is_one_line_that_names_the_argument(
    tmp_path: Path, files: tuple[Path, Path], folders: tuple[Path, Path]
) -> None:
    fixed, moving = files
    out = tmp_path / "out"
    command = ["register", "-o", out, *FAST]
    assert "FIXED" in error_line(invoke(*command, tmp_path / "none.png", moving))
    assert "MOVING" in error_line(invoke(*command, fixed, tmp_path / "none.png"))
    assert "two folders" in error_line(invoke(*command, folders[0], moving))

    (tmp_path / "text.png").write_text("no picture")
    assert "text.png" in error_line(invoke(*command, fixed, tmp_path / "text.png"))
    (tmp_path / "film.avi").write_bytes(b"0")
    assert ".tif" in error_line(invoke(*command, fixed, tmp_path / "film.avi"))
    np.save(tmp_path / "tiny.npy", np.ones((8, 8)))
    assert "moving" in error_line(invoke(*command, fixed, tmp_path / "tiny.npy"))
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "pickle" in error_line(invoke(*command, fixed, tmp_path / "pickle.npy"))

    (tmp_path / "file").write_text("")
    assert "--output" in error_line(invoke("register", *files, "-o", tmp_path / "file", *FAST))
    assert "--output" in error_line(invoke("register", *files, "-o", tmp_path / "file/x", *FAST))

    unknown = error_line(invoke("register", *files, "-o", out, "--model", "nonsense"))
    assert "nonsense" in unknown and "identity" in unknown
    assert "device" in error_line(invoke("register", *files, "-o", out, "--device", "tpu"))
    wrong_kind = error_line(invoke("fuse", *files, "-o", out, "--model", "identity"))
    assert "fusion" in wrong_kind
    (tmp_path / "weights.pt").write_bytes(b"\x80\x02}q\x00.")
    pickle = invoke("register", *files, "-o", out, "--model", tmp_path / "weights.pt")
    assert ".safetensors" in error_line(pickle)

    start = ["--initial", tmp_path / "visible.tif"]
    assert "visible.tif" in error_line(invoke("register", *files, "-o", out, *start))
    small = Transform.identity((20, 30))
    small.save(tmp_path / "small.busref.h5")
    start = ["--initial", tmp_path / "small.busref.h5", *FAST]
    assert "initial" in error_line(invoke("register", *files, "-o", out, *start))
    apply = ["apply", tmp_path / "small.busref.h5", moving, "-o", tmp_path / "x.tif"]
    assert "(20, 30)" in error_line(invoke(*apply))
    apply[-1] = tmp_path / "nowhere" / "x.tif"
    assert "nowhere" in error_line(invoke(*apply))
    assert not list(out.glob("*"))


def test_two_files_of_one_stem_are_not_guessed(
    tmp_path: Path, folders: tuple[Path, Path], images: tuple[np.ndarray, np.ndarray]
) -> None:
    visible, infrared = folders
    write_image(infrared / "a.png", images[1])
    line = error_line(invoke("register", visible, infrared, "-o", tmp_path / "out", *FAST))
    assert "a.png" in line and "a.tif" in line
    (tmp_path / "empty").mkdir()
    line = error_line(invoke("register", visible, tmp_path / "empty", "-o", tmp_path / "out"))
    assert "MOVING" in line and ".tif" in line


def test_errors_of_the_program_itself_are_not_hidden(
    tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("napari_busref.registration.register", broken)
    result = invoke("register", *files, "-o", tmp_path / "out")
    assert isinstance(result.exception, RuntimeError)

    missing = invoke("--traceback", "register", tmp_path / "no.png", files[1], "-o", tmp_path)
    assert isinstance(missing.exception, FileNotFoundError)


def test_out_of_memory_says_what_to_do(
    tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def greedy(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("napari_busref.registration.register", greedy)
    assert "--device cpu" in error_line(invoke("register", *files, "-o", tmp_path / "out"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one thread of a test")
def test_ctrl_c_keeps_what_was_done_and_nothing_half(
    tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def second_is_endless(
        *images: np.ndarray, cancel: threading.Event, **options: object
    ) -> RegistrationResult:
        if not list(out.glob("a_*")):
            return register(*images, cancel=cancel, **options)
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            check(cancel)
            time.sleep(0.01)
        raise AssertionError("never cancelled")

    monkeypatch.setattr("napari_busref.registration.register", second_is_endless)
    before = signal.getsignal(signal.SIGINT)
    out = tmp_path / "out"
    result = invoke("register", *folders, "-o", out, *FAST)
    assert result.exit_code == 130
    assert "cancelled" in result.stderr
    names = {path.name for path in out.iterdir()}
    assert "a.busref.h5" in names
    assert not [name for name in names if name.startswith(("b", "."))]
    with (out / "summary.csv").open(newline="") as stream:
        assert [row["name"] for row in csv.DictReader(stream)] == ["a"]
    assert signal.getsignal(signal.SIGINT) is before


def test_evaluate_prints_a_table_and_writes_rows(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = tmp_path / "data" / "ours"
    for kind, shape in (("infrared", (64, 80)), ("visible", (64, 80, 3))):
        (folder / kind).mkdir(parents=True)
        write_image(folder / kind / "one.png", rng.integers(0, 256, shape, dtype=np.uint8))
    (folder / "split.json").write_text(json.dumps({"train": [], "val": ["one.png"]}))
    data = ["--data-root", tmp_path / "data", "--dataset", "ours", "--device", "cpu"]

    rows = tmp_path / "rows.csv"
    command = ["evaluate", "registration", *data, "--model", "identity", "--seeds", 2]
    result = invoke(*command, "--out", rows)
    assert result.exit_code == 0, result.output
    assert "identity" in result.stdout and "epe" in result.stdout and " ± " in result.stdout
    with rows.open(newline="") as stream:
        written = list(csv.DictReader(stream))
    assert [row["seed"] for row in written] == ["0", "1"]
    assert all(float(row["epe"]) > 0 for row in written)
    assert "--overwrite" in error_line(invoke(*command, "--out", rows))
    assert ".json" in error_line(invoke(*command, "--out", tmp_path / "rows.txt"))

    fused = tmp_path / "fused.json"
    result = invoke("evaluate", "fusion", *data, "--model", "average", "-o", fused)
    assert result.exit_code == 0, result.output
    assert {"average", "visible only"} <= {row["model"] for row in json.loads(fused.read_text())}
    assert "Q_AB/F" in result.stdout and "N_AB/F" in result.stdout
    data[3] = "missing"
    assert "missing" in error_line(invoke("evaluate", "fusion", *data, "--model", "average"))


def test_superfusion_writes_the_transform_of_the_other_direction(tmp_path: Path) -> None:
    sample = load_sample("thermal")
    for name in ("fixed", "moving"):
        write_image(tmp_path / f"{name}.png", getattr(sample, name)[:128, :160])
    images = [tmp_path / "fixed.png", tmp_path / "moving.png"]
    options = ["-o", tmp_path / "out", "--model", "superfusion", "--device", "cpu"]
    result = invoke("register", *images, *options)
    assert result.exit_code == 0, result.output
    forward, inverse = (
        Transform.load(tmp_path / "out" / f"moving{end}.busref.h5") for end in ("", "_inverse")
    )
    points = np.array([[40.0, 50], [64, 80], [90, 120]])
    # not the numeric inverse: both directions have errors of their own
    back = inverse.points(forward.points(points)) - points
    assert 1e-3 < np.abs(back).max() < 15
    assert read_metadata(tmp_path / "out" / "moving_inverse.busref.h5")["fixed"] == "moving.png"


def test_demo_measures_against_the_known_warp(tmp_path: Path) -> None:
    models = ["--model", "identity", "--fusion-model", "average", "--device", "cpu"]
    result = invoke("demo", "-o", tmp_path / "demo", "--sample", "stain", *models)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    error = report["end_point_error_px"]
    assert error["before"] == error["after"] > 5  # nothing was done about a real warp
    assert f"{error['after']:.2f}" in result.stdout
    pictures = {path.name for path in (tmp_path / "demo").glob("*.png")}
    assert {"overview.png", "fixed.png", "moving.png", "mask.png", "flow.png"} <= pictures
    assert "fused.png" in result.stdout
    Transform.load(tmp_path / "demo" / "transform.busref.h5")


def test_models_lists_all_registered_ones() -> None:
    from napari_busref.models import list_models

    result = invoke("models", "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert {row["model"] for row in rows} == set(list_models())
    only = json.loads(invoke("models", "--json", "--kind", "fusion").stdout)
    assert {row["model"] for row in only} == set(list_models("fusion"))
    table = invoke("models").stdout
    assert all(name in table for name in list_models())


def test_train_checks_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_busref import training

    calls = []

    def remember(stage: str, recipe: Path, **options: object) -> Path:
        calls.append((stage, recipe, options))
        return Path("bus.safetensors")

    monkeypatch.setattr(training, "run", remember, raising=False)
    recipe, out = tmp_path / "bus.toml", tmp_path / "run"
    recipe.write_text("")
    command = ["train", "bus", "--recipe", recipe, "-o", out]
    changed = ["--set", "loss.guide=0.5", "--set", "precision=bf16-mixed", "--set", "steps=3"]
    assert invoke(*command, *changed).exit_code == 0
    stage, given, options = calls[0]
    assert (stage, given) == ("bus", recipe)
    assert options["overrides"] == {"loss.guide": 0.5, "precision": "bf16-mixed", "steps": 3}
    assert "--set" in error_line(invoke(*command, "--set", "steps"))
    assert "--recipe" in error_line(invoke("train", "bus", "--recipe", "no.toml", "-o", out))
    out.mkdir()
    (out / "checkpoint.ckpt").write_bytes(b"")
    assert "--resume" in error_line(invoke(*command))
    assert invoke(*command, "--resume").exit_code == 0
    assert calls[-1][2]["resume"] is True


def test_a_missing_training_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_busref import training

    def lacking(*args: object, **options: object) -> None:
        raise ModuleNotFoundError("No module named 'lightning_fabric'", name="lightning_fabric")

    monkeypatch.setattr(training, "run", lacking, raising=False)
    (tmp_path / "bus.toml").write_text("")
    command = ["train", "bus", "--recipe", tmp_path / "bus.toml", "-o", tmp_path / "run"]
    assert "napari-busref[train]" in error_line(invoke(*command))


def test_version_is_that_of_the_package() -> None:
    from napari_busref import __version__

    assert invoke("--version").stdout.strip() == f"napari-busref {__version__}"


def _environment() -> dict[str, str]:
    source = Path(__file__).resolve().parents[2] / "src"
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(source), *sys.path[1:]])}
