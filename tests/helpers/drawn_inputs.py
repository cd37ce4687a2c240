"""Drawn inputs: any type, memory layout, container, shape and content, and any option.

Every call must answer with finite values, or refuse with a TypeError or ValueError that names
the argument. The tests run a few examples of each function. This runs more::

    python tests/helpers/drawn_inputs.py --examples 1000
"""

from __future__ import annotations

import argparse
import math
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import napari_busref as nb
from napari_busref.images.comparison import MODES, compare
from napari_busref.metrics.alignment import alignment_scores
from napari_busref.metrics.fusion import fusion_scores
from napari_busref.runtime.options import OPTIONS

DTYPES = ("bool", "u1", "i1", "u2", ">u2", "i2", "u4", ">i4", "i8", "u8", ">i8")
FLOATS = ("f2", "f4", ">f4", "f8", ">f8", "g")
BAD_DTYPES = ("c16", "O", "M8[s]", "U1")
CONTENTS = (
    *(
        "texture",
        "texture",
        "dim",
        "nan rows",
        "infinite",
        "constant",
        "hot pixel",
        "tiny",
        "huge",
    ),
    *("wide range", "extremes", "sentinel", "zeros", "nan"),
)
LAYOUTS = ("plain", "plain", "strided", "negative", "fortran", "read-only", "memmap")
CONTAINERS = ("numpy", "numpy", "numpy", "list", "pil", "masked", "torch", "grad", "bfloat16")
LAZY = ("dask", "xarray", "zarr")
SMALL = ((16, 16), (17, 24), (32, 20), (40, 48), (16, 64))
LARGE = (*SMALL, (64, 64), (200, 16), (16, 400), (400, 16), (64, 1600), (16, 4000), (300, 200))
ODD = ((0, 20), (20, 0), (1, 1), (1, 40), (15, 20), (16, 15))
CHANNELS = ("grey",) * 5 + ("last", "alpha", "first", "1hw", "hw1", "two", "four", "stack")
MAX_CPU_SECONDS = 60


def content(kind: str, shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """Values of one kind, as far as the type holds them."""
    rng = np.random.default_rng(seed)
    values = rng.random(shape)
    values = (
        (values + np.roll(values, 1, 0) + np.roll(values, 1, 1)) / 3 if values.size else values
    )
    number = np.dtype(dtype)
    if number.kind == "b":
        return values > 0.5
    if number.kind in "iu":
        low, high = np.iinfo(number).min, np.iinfo(number).max
        scaled = (low // 4 + values * float(high // 2)).astype(number)
        few = {"dim": scaled % 16, "constant": scaled * 0 + 7, "zeros": scaled * 0}
        scaled = few.get(kind, scaled).astype(number)
        if kind in ("extremes", "hot pixel", "sentinel") and scaled.size:
            scaled.flat[0] = high
        if kind in ("extremes", "sentinel") and scaled.size:
            scaled.flat[scaled.size // 2 :: 3] = low
        return scaled
    limit = float(np.finfo(np.dtype(dtype)).max) if number.itemsize < 16 else 1e300
    powers = np.exp2(rng.uniform(-60, 60, shape))
    values = {
        "dim": lambda: 0.5 + 0.003 * values,
        "constant": lambda: np.full(shape, 0.4),
        "tiny": lambda: 1e-30 * values,
        "huge": lambda: min(1e30, limit / 4) * (values - 0.5),
        "wide range": lambda: np.minimum(powers, limit),
        "extremes": lambda: np.where(values > 0.5, limit, -limit),
        "zeros": lambda: np.zeros(shape),
        "nan": lambda: np.full(shape, np.nan),
    }.get(kind, lambda: values)()
    if kind == "nan rows" and values.size:
        values[: len(values) // 3] = np.nan
    if kind == "infinite" and values.size:
        values.flat[::7], values.flat[3::11] = np.inf, -np.inf
    if kind == "hot pixel" and values.size:
        values.flat[values.size // 2] = min(1e6, limit)
    if kind == "sentinel" and values.size:
        values.flat[::5] = -9999
    with np.errstate(over="ignore"):
        return values.astype(number)


def laid_out(array: np.ndarray, layout: str) -> np.ndarray:
    """The same values in another memory layout."""
    if array.ndim < 2 or not array.size:
        return array
    if layout == "strided":
        return np.repeat(array, 2, 1)[:, ::2]
    if layout == "negative":
        return np.ascontiguousarray(array[::-1])[::-1]
    if layout == "fortran":
        return np.asfortranarray(array)
    if layout == "read-only":
        array = array.copy()
        array.flags.writeable = False
    elif layout == "memmap" and array.dtype.kind != "O":
        with tempfile.TemporaryFile() as file:
            file.write(array.tobytes())
            file.flush()
            return np.memmap(file, array.dtype, "r", shape=array.shape)
    return array


def contained(array: np.ndarray, container: str) -> Any:
    """The same values in another container; the array itself where that cannot hold them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _contained(array, container)
    except (TypeError, ValueError, RuntimeError, ImportError, SystemError, OverflowError):
        return array


def _contained(array: np.ndarray, container: str) -> Any:
    if container == "list":
        return array.tolist()
    if container == "pil":
        from PIL import Image

        return Image.fromarray(array)
    if container == "masked":
        return np.ma.MaskedArray(array, mask=np.arange(array.size).reshape(array.shape) % 7 == 0)
    if container in ("torch", "grad", "bfloat16"):
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if container == "grad":
            return tensor.float().requires_grad_()
        return tensor.bfloat16() if container == "bfloat16" else tensor
    if container == "dask":
        import dask.array

        return dask.array.from_array(array)
    if container == "xarray":
        import xarray

        return xarray.DataArray(array)
    if container == "zarr":
        import zarr

        return zarr.array(array)
    return array


@st.composite
def images(
    draw: st.DrawFn, shapes: tuple[tuple[int, int], ...] = SMALL, *, odd: bool = True
) -> Any:
    """One image in any form, (H, W) of one of the shapes; with `odd`, also what is refused."""
    pool = (*DTYPES, *FLOATS, *FLOATS, *(BAD_DTYPES[: 4 * odd]))
    dtype = draw(st.sampled_from(pool))
    shape = draw(st.sampled_from((*shapes * 3, *(ODD if odd else ()))))
    form = draw(st.sampled_from(CHANNELS))
    full: tuple[int, ...] = {
        "last": (*shape, 3),
        "alpha": (*shape, 4),
        "first": (3, *shape),
        "1hw": (1, *shape),
        "hw1": (*shape, 1),
        "two": (*shape, 2),
        "four": (4, *shape),
        "stack": (2, 2, *shape) if odd else shape,
    }.get(form, shape)
    kind = draw(st.sampled_from(CONTENTS))
    seed = draw(st.integers(0, 3))
    if dtype in BAD_DTYPES:
        array = np.zeros(full, dtype) if dtype != "U1" else np.full(full, "a")
    else:
        array = content(kind, full, dtype, seed)
    array = laid_out(array, draw(st.sampled_from(LAYOUTS)))
    return contained(array, draw(st.sampled_from((*CONTAINERS, *LAZY))))


@st.composite
def pairs(draw: st.DrawFn, shapes: tuple[tuple[int, int], ...] = SMALL) -> tuple[Any, Any]:
    """Two images, mostly of one shape."""
    if draw(st.integers(0, 3)):
        shape = (draw(st.sampled_from(shapes)),)
        return draw(images(shape, odd=False)), draw(images(shape, odd=False))
    return draw(images(shapes)), draw(images(shapes))


NUMBERS = st.one_of(
    st.sampled_from([0, 1, 0.5, -1, 16, 1e6, 1e300, -1e300, math.nan, math.inf, -math.inf, 2**64]),
    st.sampled_from([None, "a", True, 1j, [1], np.float32(0.5), np.int64(3), b"x"]),
)


def options(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Up to three options; the others keep their defaults."""
    names = st.lists(st.sampled_from(sorted(strategies)), max_size=3, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({n: strategies[n] for n in chosen}))


def choice(name: str) -> st.SearchStrategy[Any]:
    """The choices of an option, and values that are none."""
    return st.sampled_from([*OPTIONS[name].values, None, "none of them", 3])


@contextmanager
def refusals(*names: str) -> Iterator[None]:
    """Let a call refuse its arguments, by name, and let nothing else pass."""
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    except (TypeError, ValueError) as error:
        if not re.search(rf"\b({'|'.join(names)})\b", str(error)):
            raise AssertionError(f"names no argument: {error!r}") from error
    seconds = time.process_time() - start
    assert seconds < MAX_CPU_SECONDS, f"{seconds:.0f} CPU s"


def missing(image: Any) -> np.ndarray | None:
    """Where a plain grey or colour image has no finite value; None for other containers."""
    if not isinstance(image, np.ndarray) or image.dtype.kind not in "biuf":
        return None
    values = np.ma.getdata(image)
    lost = (
        np.ma.getmaskarray(image)
        | ~np.isfinite(values)
        | (np.abs(values.astype(np.longdouble)) >= 1e300)
    )
    return lost.any(-1) if lost.ndim == 3 else lost


REGISTER_OPTIONS = {
    "search": choice("search"),
    "refine": choice("refine"),
    "transform": choice("transform"),
    "nodata": st.one_of(st.just("auto"), NUMBERS),
    "fill_value": NUMBERS,
    "on_cancel": choice("on_cancel"),
    "initial": st.sampled_from([None, 3, ([[0, 0]], [[0, 0]]), ([[0, 0], [0, 9], [9, 0]],) * 2]),
    "fixed_mask": images(odd=False),
    "moving_mask": images(odd=False),
    "model": st.sampled_from(
        ["auto", "busref", "superfusion", "identity", "gaf", 3, None, "x.pt"]
    ),
    "device": st.sampled_from(["auto", "cpu", "cuda:77", "tpu", 3, None]),
}
FAST = st.just({"model": "identity", "refine": "none", "search": "none"})


def check_register(pair: tuple[Any, Any], chosen: dict[str, Any]) -> None:
    """`register` answers with finite values and a transform, or refuses."""
    names = ("fixed", "moving", *REGISTER_OPTIONS)
    with refusals(*names):
        found = nb.register(*pair, **{"nodata": None, "device": "cpu", **chosen})
        assert np.isfinite(found.flow).all()
        assert 0 <= found.quality.score <= 1
        lost = missing(pair[1])
        if lost is not None and not lost.any() and "nodata" not in chosen:
            values = np.ma.getdata(found.warped)[found.mask]
            assert np.isfinite(values).all() or values.dtype.kind != "f"


FUSE_OPTIONS = {
    "task": choice("task"),
    "infrared": NUMBERS,
    "detail": NUMBERS,
    "precision": choice("precision"),
    "tile": st.one_of(st.just("auto"), NUMBERS),
    "mask": images(odd=False),
    "nodata": st.one_of(st.just("auto"), NUMBERS),
    "feather": NUMBERS,
    "loss_weights": st.booleans(),
    "transform": st.sampled_from([None, 3, nb.Transform.identity((16, 16))]),
}
FUSION_MODELS = ("average", "maximum", "laplacian", "guided-filter", "gaf", "superfusion", "mda")


def check_fuse(pair: tuple[Any, Any], model: str, chosen: dict[str, Any]) -> None:
    """`fuse` answers with finite values wherever the visible image has them, or refuses."""
    with refusals("fixed", "moving", "model", *FUSE_OPTIONS):
        found = nb.fuse(*pair, model=model, device="cpu", **{"nodata": None, **chosen})
        lost = missing(pair[0])
        if lost is not None and lost.shape == found.fused.shape[:2] and "nodata" not in chosen:
            values = found.fused[~lost]
            assert values.dtype.kind != "f" or np.isfinite(values[..., :3]).all()


COMPARE_OPTIONS = {
    "mode": st.sampled_from([*MODES, *MODES, "none of them", 3, None]),
    "mask": images(odd=False),
    "tile": NUMBERS,
    "position": NUMBERS,
    "axis": NUMBERS,
    "sigma": NUMBERS,
}


def check_compare(pair: tuple[Any, Any], chosen: dict[str, Any]) -> None:
    """`compare` draws a picture, or refuses."""
    with refusals("fixed", "moving", *COMPARE_OPTIONS):
        picture = compare(*pair, **chosen)
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3


def check_scores(pair: tuple[Any, Any], truth: Any, mask: Any) -> None:
    """Scores are numbers in their ranges, or NaN where undefined, or the call refuses."""
    with refusals("fixed", "warped", "truth", "mask", "truth_mask"):
        scores = alignment_scores(*pair, truth=truth, mask=mask)
        assert np.isnan(scores["nmi"]) or 1 <= scores["nmi"] <= 2 + 1e-9
        assert np.isnan(scores["ncc"]) or abs(scores["ncc"]) <= 1 + 1e-6
    with refusals("fused", "visible", "infrared", "images"):
        assert np.isfinite(list(fusion_scores(pair[0], *pair).values())).all()


@st.composite
def transforms(draw: st.DrawFn) -> nb.Transform:
    """A transform between images of 16 x 20 and 20 x 16 px, with or without displacement."""
    rng = np.random.default_rng(draw(st.integers(0, 5)))
    scale = draw(st.sampled_from([1.0, 1.0, 0.5, 1e-3, 1e4]))
    affine = np.eye(3)
    affine[:2, :2] = scale * (np.eye(2) + 0.2 * rng.standard_normal((2, 2)))
    affine[:2, 2] = draw(st.sampled_from([0, 3.5, -1e5])) * rng.standard_normal(2)
    shape = draw(st.sampled_from([(16, 20), (20, 16), (1, 5)]))
    amount = draw(st.sampled_from([None, 0.3, 8.0, 1e6]))
    field = None if amount is None else amount * rng.standard_normal((2, *shape))
    moving = draw(st.sampled_from([(16, 20), (20, 16)]))
    return nb.Transform(affine, field, fixed_shape=shape, moving_shape=moving)


def check_algebra(one: nb.Transform, other: nb.Transform, points: Any, tolerance: Any) -> None:
    """Products, inverses and points are finite, or refused."""
    names = ("transform", "other", "points", "tolerance", "affine", "displacement")
    with refusals(*names):
        assert np.isfinite(one.compose(other).flow()).all()
    with refusals(*names):
        assert np.isfinite(one.inverse(tolerance=tolerance).flow()).all()
    with refusals(*names):
        assert np.isfinite(one.points(points)).all()
    with refusals(*names):
        assert np.isfinite(one.points(points, inverse=True)).all()
    with refusals("image", "valid"):
        one.mask(points)
    assert np.isfinite(one.jacobian_determinant()).all()


def check_apply(transform: nb.Transform, image: Any, order: Any, cval: Any) -> None:
    """Resampled images keep type and range; only lost pixels and the outside are not finite."""
    with refusals("image", "order", "cval"):
        warped = transform.apply(image, order, cval)
        assert warped.shape[:2] == transform.fixed_shape
        lost = missing(image)
        if lost is not None and not lost.any():
            values = np.ma.getdata(warped)[transform.mask()]
            assert values.dtype.kind != "f" or order not in (0, 1) or np.isfinite(values).all()


def check_made(affine: Any, displacement: Any, shape: Any) -> None:
    """A transform is made of finite arrays, or refused."""
    with refusals("affine", "displacement", "fixed_shape", "moving_shape"):
        made = nb.Transform(affine, displacement, fixed_shape=shape, moving_shape=(16, 20))
        assert made.affine.dtype == np.float64


def check_files(transform: nb.Transform, metadata: Any, suffix: str) -> None:
    """A saved transform is read back equal, or refused."""
    with tempfile.TemporaryDirectory() as folder, refusals("metadata", "path", "transform"):
        path = transform.save(Path(folder) / f"drawn{suffix}", metadata)
        assert nb.Transform.load(path) == transform


ARRAYS = st.one_of(images(), st.sampled_from([None, 3, "a", [[1, 2], [3]], [[[1]]], object()]))
AFFINES = st.one_of(
    ARRAYS,
    st.sampled_from([np.eye(3), np.eye(3).tolist(), np.zeros((3, 3)), np.eye(3) * 1e300]),
)
SHAPES = st.sampled_from([(16, 16), (16.0, 16), (0, 4), (-1, 2), (3,), None, "ab", (1e9, 1e9)])
METADATA = st.sampled_from([None, {}, {"a": 1}, {"a": math.nan}, {"a": object()}, {1: 2}, [1], 3])

#: By function: the check, and the strategies of its arguments.
CHECKS: dict[str, tuple[Callable[..., None], Callable[[tuple[Any, ...]], tuple[Any, ...]]]] = {
    "register": (
        check_register,
        lambda s: (pairs(s), st.one_of(FAST, options(**REGISTER_OPTIONS))),
    ),
    "fuse": (
        check_fuse,
        lambda s: (pairs(s), st.sampled_from(FUSION_MODELS), options(**FUSE_OPTIONS)),
    ),
    "compare": (check_compare, lambda s: (pairs(s), options(**COMPARE_OPTIONS))),
    "scores": (check_scores, lambda s: (pairs(s), st.none() | images(s), st.none() | images(s))),
    "algebra": (
        check_algebra,
        lambda s: (
            transforms(),
            transforms(),
            ARRAYS | st.sampled_from([[[1, 2]], np.zeros((4, 2)), [[1e300, 1]], np.zeros((0, 2))]),
            NUMBERS,
        ),
    ),
    "apply": (
        check_apply,
        lambda s: (
            transforms(),
            images(((16, 20), (20, 16))),
            st.sampled_from([0, 1, 1, 3, 5, 6, 1.5, None, "a"]),
            NUMBERS,
        ),
    ),
    "made": (check_made, lambda s: (AFFINES, st.none() | ARRAYS, SHAPES)),
    "files": (
        check_files,
        lambda s: (transforms(), METADATA, st.sampled_from([".busref.h5", ".h5", "", ".png"])),
    ),
}


def run(name: str, examples: int, shapes: tuple[tuple[int, int], ...] = SMALL) -> None:
    """Run a check on drawn examples, the same ones every time."""
    check, arguments = CHECKS[name]
    quiet = settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    quiet(given(*arguments(shapes))(check))()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=1000, help="of all functions together")
    parser.add_argument("names", nargs="*", default=list(CHECKS))
    given_options = parser.parse_args()
    for each in given_options.names:
        began = time.process_time()
        run(each, max(given_options.examples // len(given_options.names), 1), LARGE)
        print(f"{each}: {time.process_time() - began:.0f} CPU s", flush=True)
