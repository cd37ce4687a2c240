"""Drawn images: any type, memory layout, container, shape and content."""

from __future__ import annotations

import tempfile
import warnings
from typing import Any

import numpy as np
from hypothesis import strategies as st

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
SMALL = ((16, 16), (17, 24), (32, 20), (40, 48), (16, 64), (200, 16))
LARGE = (*SMALL, (64, 64), (16, 400), (400, 16), (64, 1600), (16, 4000), (300, 200))
ODD = ((0, 20), (20, 0), (1, 1), (1, 40), (15, 20), (16, 15))
CHANNELS = ("grey",) * 5 + ("last", "alpha", "first", "1hw", "hw1", "two", "four", "stack")


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
    draw: st.DrawFn,
    shapes: tuple[tuple[int, int], ...] = SMALL,
    *,
    odd: bool = True,
    containers: tuple[str, ...] = (*CONTAINERS, *LAZY),
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
    return contained(array, draw(st.sampled_from(containers)))


@st.composite
def pairs(draw: st.DrawFn, shapes: tuple[tuple[int, int], ...] = SMALL) -> tuple[Any, Any]:
    """Two images, mostly of one shape."""
    if draw(st.integers(0, 3)):
        shape = (draw(st.sampled_from(shapes)),)
        return draw(images(shape, odd=False)), draw(images(shape, odd=False))
    return draw(images(shapes)), draw(images(shapes))
