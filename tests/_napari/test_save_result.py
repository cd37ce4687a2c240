"""Saving the result of a run to files, without a window."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("zarr")

import dask.array as da
from napari.components import ViewerModel
from napari.layers import Image

from napari_busref import Transform, fuse, open_image, read_image, read_transform
from napari_busref._napari.layers.map_positions import geotags
from napari_busref._napari.register import stack_fusion
from napari_busref._napari.register.run import make_request
from napari_busref._napari.register.save import SaveRequest, kinds_of, save
from napari_busref._napari.register.settings import Settings
from napari_busref._napari.register.stacks import register_stack
from napari_busref.images import pyramid
from napari_busref.runtime.holding import held
from napari_busref.runtime.progress import Cancelled
from napari_busref.transforms.formats import files

QUICK = Settings(
    model="identity", search="none", refine="none", device="cpu", fusion_model="average"
)


class Counted:
    """An array in a file, which notes how much of it is read at once."""

    def __init__(self, data):
        self.data, self.shape, self.dtype, self.ndim = data, data.shape, data.dtype, data.ndim
        self.reads = []

    def __getitem__(self, index):
        piece = self.data[index]
        self.reads.append(piece.size)
        return piece

    def dask(self):
        chunks = (*[1] * (self.ndim - 2), 64, 64)
        return da.from_array(self, chunks=chunks, asarray=False, meta=np.empty(0, self.dtype))


def picture(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 255, shape, np.uint8)


def registered(fixed, moving, settings=QUICK, spatial=None, **options):
    """The request of a run on two arrays or levels, and its result."""
    viewer = ViewerModel()
    layers = [
        viewer.add_layer(
            Image(
                data,
                name=name,
                contrast_limits=(0, 255),
                multiscale=isinstance(data, list),
                **known,
            )
        )
        for data, name, known in ((fixed, "vis", spatial or {}), (moving, "ir", {}))
    ]
    request = make_request(viewer, *layers, settings)
    result = register_stack(
        request.fixed,
        request.moving,
        mode=request.mode,
        initial=request.initial,
        fusion=request.fusion(),
        **settings.registration(),
        **options,
    )
    return request, result


def saved(request, result, path, progress=lambda *_: None, cancel=None, **options):
    plan = SaveRequest(result, request, path, **options)
    return save(plan, progress=progress, cancel=cancel or threading.Event())


@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif"])
def test_a_plane_is_saved_with_pixel_size_and_transform(tmp_path, suffix):
    spatial = {"scale": (0.5, 0.25), "units": ("um", "um")}
    request, result = registered(picture((40, 56)), picture((40, 56), 1), spatial=spatial)
    paths = saved(request, result, tmp_path / f"slide{suffix}")
    names = ["slide.busref.h5", *(f"slide_{one}{suffix}" for one in ("mask", "warped", "fused"))]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    found = {path.stem.split(".")[0][6:]: read_image(path) for path in paths[1:]}
    assert np.array_equal(found["warped"].data, result.warped)
    assert np.array_equal(found["fused"].data, result.fused)
    (plane,) = result.planes.values()
    assert np.array_equal(found["mask"].data, plane.mask * np.uint8(255))
    for one in found.values():
        microns = {"µm": 1.0, "cm": 1e4}[one.metadata["unit"]]
        assert np.multiply(one.metadata["spacing"], microns) == pytest.approx((0.5, 0.25))
    loaded = read_transform(paths[0])
    assert loaded.transform == result.transform
    assert loaded.fixed.unit == "micrometer"
    assert loaded.metadata["fixed"] == "vis"


@pytest.mark.parametrize(("suffix", "cloud"), [(".tif", False), (".tif", True), (".ome.zarr", 0)])
def test_the_map_position_of_the_fixed_file_is_kept(tmp_path, suffix, cloud):
    if cloud:
        pytest.importorskip("rasterio")
    geo = {"33550": (0.5, 0.5, 0.0), "33922": (0.0, 0.0, 0.0, 6e5, 5e6, 0.0)}
    geo["34735"] = (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32632)
    spatial = {"metadata": {"image_file": {"geotiff": geo}}}
    request, result = registered(picture((40, 56)), picture((40, 56), 1), spatial=spatial)
    tags = geotags(Image(result.fused, **spatial))
    assert tags == geo
    paths = saved(request, result, tmp_path / f"map{suffix}", cloud=bool(cloud), geotags=tags)
    for path in paths[1:]:
        found = read_image(path).metadata["geotiff"]
        assert [float(one) for one in found["33922"]] == [0, 0, 0, 6e5, 5e6, 0]
    with pytest.raises(ValueError, match=r"cloud: 'a\.ome\.zarr' is no \.tif"):
        SaveRequest(result, request, tmp_path / "a.ome.zarr", cloud=True)


def test_existing_files_are_replaced_only_on_demand(tmp_path):
    request, result = registered(picture((40, 56)), picture((40, 56), 1))
    path = tmp_path / "slide.ome.zarr"
    saved(request, result, path)
    with pytest.raises(FileExistsError, match=r"already holds slide\.busref\.h5, slide_mask"):
        saved(request, result, path)
    assert len(saved(request, result, path, overwrite=True)) == 4


def test_only_the_outputs_of_the_run_are_saved(tmp_path):
    settings = replace(QUICK, fused=False, mask=False)
    request, result = registered(picture((40, 56)), picture((40, 56), 1), settings, fuse=False)
    paths = saved(request, result, tmp_path / "slide.tif")
    assert [path.name for path in paths] == ["slide.busref.h5", "slide_warped.tif"]


@pytest.fixture
def large(monkeypatch):
    """A pair of pyramids that is read, registered and fused at a coarser level."""
    monkeypatch.setattr(stack_fusion, "FUSION_BUDGET", 1000)
    monkeypatch.setattr(pyramid, "BLOCK", 128)
    monkeypatch.setattr(pyramid, "_CHUNK", 64)
    arrays = [picture((300, 400), seed) for seed in (0, 1)]
    counted = [[Counted(one), Counted(one[::2, ::2])] for one in arrays]
    return arrays, counted


def test_a_large_picture_is_fused_at_full_resolution_from_windows(tmp_path, large):
    arrays, counted = large
    pyramids = [[level.dask() for level in levels] for levels in counted]
    request, result = registered(*pyramids, pixels=150 * 200)
    assert not result.fixed_grid.full
    assert result.fused.shape == (150, 200)
    for levels in counted:
        levels[0].reads.clear()
    said = []
    path = tmp_path / "slide.ome.zarr"
    saved(request, result, path, progress=lambda *report: said.append(report))
    fused = open_image(tmp_path / "slide_fused.ome.zarr")
    assert fused.shape == (300, 400)
    expected = fuse(*arrays, mask=np.ones((300, 400), bool), model="average").fused
    assert np.abs(fused.read().astype(int) - expected).max() <= 1
    warped = open_image(tmp_path / "slide_warped.ome.zarr")
    assert np.array_equal(warped.read(), arrays[1])
    assert warped.sides[1] == (150, 200)
    assert open_image(tmp_path / "slide_mask.ome.zarr").read().all()
    assert max(max(levels[0].reads) for levels in counted) <= 64 * 64
    fractions = [fraction for _, fraction in said]
    assert fractions == sorted(fractions)
    assert list(dict.fromkeys(stage for stage, _ in said)) == [
        "saving the transform",
        "saving the mask",
        "saving the warped image",
        "fusing at full resolution",
        "saved",
    ]


@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif"])
@pytest.mark.parametrize("stage", ["saving the mask", "saving the warped", "fusing"])
def test_cancel_leaves_complete_files_only(tmp_path, large, stage, suffix):
    request, result = registered(*large[0], pixels=150 * 200)
    cancel, steps = threading.Event(), []

    def progress(words, fraction):
        if words.startswith(stage):
            steps.append(fraction)
            if len(steps) == 3:  # in the midst of a file
                cancel.set()

    with pytest.raises(Cancelled):
        saved(request, result, tmp_path / f"slide{suffix}", progress, cancel)
    done = {"saving the mask": [], "saving the warped": ["mask"], "fusing": ["mask", "warped"]}
    names = ["slide.busref.h5", *(f"slide_{one}{suffix}" for one in done[stage])]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_a_full_disk_leaves_nothing_unfinished(tmp_path, large, monkeypatch):
    request, result = registered(*large[0], pixels=150 * 200)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyramid.PyramidWriter, "write", full)
    with pytest.raises(OSError, match="the disk is full; the unfinished file was removed"):
        saved(request, result, tmp_path / "slide.ome.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["slide.busref.h5"]


def test_what_another_run_writes_stays(tmp_path, large):
    request, result = registered(*large[0], pixels=150 * 200)
    theirs = tmp_path / "slide_mask.ome.zarr.part"
    theirs.mkdir()
    with held(theirs), pytest.raises(BlockingIOError):
        saved(request, result, tmp_path / "slide.ome.zarr")
    assert theirs.is_dir()


@pytest.mark.parametrize("mode", ["one", "each"])
def test_a_stack_is_saved_plane_by_plane(tmp_path, mode):
    counted = Counted(np.stack([picture((40, 56), seed) for seed in range(3)]))
    moving = np.stack([picture((40, 56), seed) for seed in range(3, 6)])
    spatial = {"axis_labels": ("t", "y", "x"), "scale": (1, 2, 2), "units": ("s", "um", "um")}
    settings = replace(QUICK, planes=mode)
    request, result = registered(counted.dask(), moving, settings, spatial=spatial)
    assert list(kinds_of(result).values()) == [(".ome.tif", False)]
    paths = saved(request, result, tmp_path / "film.ome.tif")
    found = {path.stem.split(".")[0][5:]: read_image(path) for path in paths[1:]}
    assert found["warped"].axes == "TYX"
    assert found["warped"].metadata["spacing"] == (2.0, 2.0)
    assert np.array_equal(found["warped"].data, np.asarray(result.warped[0]))
    assert np.array_equal(found["fused"].data, result.fused)
    assert found["mask"].data.shape == (3, 40, 56) and found["mask"].data.all()
    content = files.read_transform(paths[0])
    assert len(content.planes) == (3 if mode == "each" else 0)
    assert isinstance(content.transform, Transform)


@pytest.mark.parametrize("name", ["slide.png", "slide", "slide.ome.tif"])
def test_another_extension_is_refused_by_name(tmp_path, name):
    request, result = registered(picture((40, 56)), picture((40, 56), 1))
    with pytest.raises(ValueError, match=rf"path: got '{name}', a plane is saved as \.ome\.zarr"):
        SaveRequest(result, request, tmp_path / name)
    stacks = np.zeros((2, 3, 40, 56), np.uint8)
    request, result = registered(*stacks, replace(QUICK, planes="one"))
    with pytest.raises(ValueError, match=r"a stack is saved as \.ome\.tif"):
        SaveRequest(result, request, tmp_path / "stack.tif")


def test_a_large_picture_needs_the_plain_settings(tmp_path, large):
    settings = replace(QUICK, infrared=0.8)
    request, result = registered(*large[0], settings, pixels=150 * 200)
    with pytest.raises(ValueError, match="with Brightness in the middle"):
        SaveRequest(result, request, tmp_path / "slide.ome.zarr")
    plain = replace(request, settings=replace(settings, fused=False))
    assert "fused" not in SaveRequest(result, plain, tmp_path / "slide.ome.zarr").files
