"""What commands write on the grid of a GeoTIFF lies where it lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner, Result

from napari_busref._cli.main import app

SHAPE = (40, 48)
KEYS = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32631)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def geotiff(path: Path, image: np.ndarray, pixel: float, east: float) -> Path:
    tags = [
        (33550, 12, 3, (pixel, pixel, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, east, 4.6e6, 0.0), True),
        (34735, 3, len(KEYS), KEYS, True),
    ]
    tifffile.imwrite(path, image, extratags=tags)
    return path


def place(path: Path) -> tuple[object, ...]:
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        return tuple(tags[code].value for code in (33550, 33922, 34735) if code in tags)


@pytest.mark.parametrize("command", ["register", "run"])
def test_results_lie_where_the_fixed_image_lies(tmp_path: Path, command: str) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(1, 255, SHAPE, np.uint8)
    fixed = geotiff(tmp_path / "visible.tif", grey, 0.5, 5e5)
    celsius = rng.normal(20, 5, SHAPE).astype(np.float32)
    moving = geotiff(tmp_path / "thermal.tif", celsius, 1.5, 7e5)
    out = tmp_path / "out"
    fusion = ["--fusion-model", "average"] if command == "run" else []
    result = invoke(command, fixed, moving, "-o", out, "--model", "identity", *fusion)
    assert result.exit_code == 0, result.output
    for what in ("warped", "mask", *(["fused"] if command == "run" else [])):
        assert place(out / f"thermal_{what}.tif") == place(fixed), what
    transform = out / "thermal.busref.h5"
    for inverse, image, expected in (([], moving, fixed), (["--inverse"], fixed, moving)):
        target = tmp_path / f"applied{len(inverse)}.tif"
        result = invoke("apply", transform, image, "-o", target, *inverse)
        assert result.exit_code == 0, result.output
        assert place(target) == place(expected)
