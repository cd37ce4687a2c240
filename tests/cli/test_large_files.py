"""OME-Zarr folders and URLs on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from napari_busref._cli.main import app
from napari_busref.data.samples import thermal_scene
from napari_busref.fusion import fuse
from napari_busref.images import large as large_images
from napari_busref.images import pyramid
from napari_busref.images.io import read_image, write_image
from napari_busref.images.large import open_image
from napari_busref.transforms.transform import Transform
from ome_zarr_files import write

pytest.importorskip("zarr", reason="needs napari-busref[large]")

PICTURE = np.random.default_rng(0).integers(0, 255, (3, 60, 80), np.uint8)
STRAIGHT = ("--model", "identity", "--search", "none", "--refine", "none")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_level_and_a_channel_of_an_ome_zarr_are_registered(tmp_path: Path) -> None:
    zarr = write(tmp_path / "slide.ome.zarr", [PICTURE, PICTURE[:, ::2, ::2]], axes="cyx")
    write_image(tmp_path / "other.tif", PICTURE[1, ::2, ::2])
    given = (tmp_path / "other.tif", zarr, "-o", tmp_path / "out")
    result = invoke("register", *given, *STRAIGHT, "--level", "0,1", "--channel", 2)
    assert result.exit_code == 0, result.output
    warped = read_image(tmp_path / "out" / "slide_warped.tif").data
    np.testing.assert_array_equal(warped, PICTURE[1, ::2, ::2])


def test_folders_of_ome_zarr_are_paired(tmp_path: Path) -> None:
    for side in ("fixed", "moving"):
        for name in ("a", "b"):
            write(tmp_path / side / f"{name}.ome.zarr", [PICTURE[0]])
    result = invoke(
        "register", tmp_path / "fixed", tmp_path / "moving", "-o", tmp_path / "out", *STRAIGHT
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "a.busref.h5").exists() and (
        tmp_path / "out" / "b.busref.h5"
    ).exists()


def test_a_transform_is_applied_to_a_url(tmp_path: Path) -> None:
    shift = Transform(
        [[1, 0, 2], [0, 1, 0], [0, 0, 1]], fixed_shape=(60, 80), moving_shape=(60, 80)
    )
    shift.save(tmp_path / "t.busref.h5")
    zarr = write(tmp_path / "slide.ome.zarr", [PICTURE[0]])
    result = invoke("apply", tmp_path / "t.busref.h5", f"file://{zarr}", "-o", tmp_path / "o.tif")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_image(tmp_path / "o.tif").data[:-2], PICTURE[0, 2:])


def test_there_is_no_such_level(tmp_path: Path) -> None:
    zarr = write(tmp_path / "slide.ome.zarr", [PICTURE[0]])
    result = invoke("register", zarr, zarr, "-o", tmp_path / "out", "--level", 4)
    assert result.exit_code == 2
    assert "--level: got 4, need 0 to 0" in " ".join(result.stderr.split())


@pytest.mark.parametrize("name", ["o.ome.zarr", "o.tif"])
def test_apply_streams_into_ome_zarr_and_large_tiffs(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyramid, "BLOCK", 512)
    monkeypatch.setattr(large_images, "LARGE", 1000 * 1000)
    large = np.repeat(np.repeat(PICTURE[0], 20, 0), 20, 1)
    shape = large.shape
    write_image(tmp_path / "slide.tif", large)
    shift = Transform([[1, 0, 2], [0, 1, 0], [0, 0, 1]], fixed_shape=shape, moving_shape=shape)
    shift.save(tmp_path / "t.busref.h5", {"fixed_image": {"spacing": [2.0, 2.0], "unit": "mm"}})
    given = ("apply", tmp_path / "t.busref.h5", tmp_path / "slide.tif", "-o", tmp_path / name)
    result = invoke(*given, "--memory-limit", 0.0015, "--order", 1)
    assert result.exit_code == 0, result.output
    assert len(open_image(tmp_path / name).levels) == 3
    made = read_image(tmp_path / name)
    np.testing.assert_array_equal(made.data[:-2], large[2:])
    assert made.metadata["unit"] in ("mm", "cm")
    result = invoke(*given)
    assert result.exit_code == 2
    assert "use --overwrite" in " ".join(result.stderr.split())


def test_results_are_written_as_ome_zarr(tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", PICTURE[0])
    given = ("register", tmp_path / "a.tif", tmp_path / "a.tif", "-o", tmp_path / "out")
    result = invoke(*given, *STRAIGHT, "--format", "ome.zarr")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(
        read_image(tmp_path / "out" / "a_warped.ome.zarr").data, PICTURE[0]
    )
    assert set(np.unique(read_image(tmp_path / "out" / "a_mask.ome.zarr").data)) == {255}
    assert invoke(*given, *STRAIGHT, "--format", "ome.zarr", "--resume").exit_code == 0


@pytest.mark.parametrize("suffix", [".tif", ".ome.zarr"])
def test_large_pairs_are_read_and_written_by_windows(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_images, "LARGE", 300 * 300)
    monkeypatch.setattr(pyramid, "BLOCK", 256)
    monkeypatch.setattr(pyramid, "_CHUNK", 128)
    sample = thermal_scene(0, (400, 528))
    write_image(tmp_path / f"v{suffix}", sample.fixed)
    write_image(tmp_path / f"t{suffix}", sample.moving)
    sample.truth.save(tmp_path / "t.busref.h5")
    files, out = (tmp_path / f"v{suffix}", tmp_path / f"t{suffix}"), tmp_path / "out"
    straight = (*STRAIGHT, "--initial", tmp_path / "t.busref.h5", "--fusion-model", "average")
    result = invoke("run", *files, "-o", out, *straight)
    assert result.exit_code == 0, result.output
    expected = sample.truth.apply(sample.moving)
    warped, mask, fused = (out / f"t_{what}{suffix}" for what in ("warped", "mask", "fused"))
    np.testing.assert_array_equal(open_image(warped).read(), expected)
    known = open_image(mask).read() > 0
    whole = fuse(sample.fixed, expected, mask=known, model="average", device="cpu").fused
    apart = np.abs(open_image(fused).read().astype(int) - whole)
    assert apart.max() <= 1
    assert len(open_image(fused).levels) == 4

    given = ("fuse", files[0], warped, "--mask", mask, "-o", tmp_path / "again")
    result = invoke(*given, "--model", "average")
    assert result.exit_code == 0, result.output
    again = open_image(tmp_path / "again" / f"t_fused{suffix}").read()
    np.testing.assert_array_equal(again, open_image(fused).read())
    result = invoke(*given, "--infrared", 0.8, "--overwrite")
    assert result.exit_code == 2
    assert "--infrared: got 0.8, need 0.5" in " ".join(result.stderr.split())
    assert invoke(*given, "--model", "average", "--resume").exit_code == 0
