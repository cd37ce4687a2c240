"""Drawn inputs: images and files of any kind, and any option.

Every call must answer with finite values, or refuse with a TypeError or ValueError that names
the argument or the file. The tests run a few examples of each function. This runs more, and
compares the CPU time of elongated images with that of squares of as many pixels::

    python tests/helpers/drawn_inputs.py --examples 1000
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

import napari_busref as nb
from damage import KINDS, damage
from drawn_images import LARGE, SMALL, content, images, pairs
from napari_busref.images.comparison import MODES, compare
from napari_busref.images.io import read_plane
from napari_busref.metrics.alignment import alignment_scores
from napari_busref.metrics.fusion import fusion_scores
from napari_busref.runtime.options import OPTIONS

MAX_CPU_SECONDS = 60
MAX_RATIO = 10  # CPU time of an elongated image and of a square one
REFUSED = (TypeError, ValueError)
UNREADABLE = (*REFUSED, OSError)
#: The long run compares times. The tests do not: their machines are busy.
COMPARE_TIMES = False

NUMBERS = st.one_of(
    st.sampled_from([0, 1, 0.5, -1, 16, 1e6, 1e300, -1e300, math.nan, math.inf, -math.inf, 2**64]),
    st.sampled_from([None, "a", True, 1j, [1], np.float32(0.5), np.int64(3), b"x"]),
)


def options(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Up to three options; the others keep their defaults."""
    names = st.lists(st.sampled_from(sorted(strategies)), max_size=3, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({n: strategies[n] for n in chosen}))


def mostly_none(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """None three times of four."""
    return st.one_of(st.none(), st.none(), st.none(), strategy)


def choice(name: str) -> st.SearchStrategy[Any]:
    """The choices of an option, and values that are none."""
    return st.sampled_from([*OPTIONS[name].values, None, "none of them", 3])


COUNT: Counter[str] = Counter()


@contextmanager
def refusals(*names: str, errors: tuple[type[Exception], ...] = REFUSED) -> Iterator[None]:
    """Let a call refuse its arguments, by name, and let nothing else pass."""
    start = time.process_time()
    COUNT["calls"] += 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    except errors as error:
        COUNT["refused"] += 1
        if not re.search(rf"\b({'|'.join(names)})\b", str(error)):
            raise AssertionError(f"names no argument: {error!r}") from error
    seconds = time.process_time() - start
    assert seconds < MAX_CPU_SECONDS, f"{seconds:.0f} CPU s"


def timed(call: Callable[..., Any], pair: tuple[Any, Any], chosen: dict[str, Any]) -> Any:
    """Call it. Elongated images take at most ten times as long as squares of as many pixels."""

    def seconds(*images: Any, **options: Any) -> float:
        began = time.process_time()
        call(*images, **options)
        return time.process_time() - began

    found = call(*pair, **chosen)
    shapes = [sorted(getattr(one, "shape", None) or np.shape(one))[-2:] for one in pair]
    if COMPARE_TIMES and any(long > 4 * short for short, long in shapes):
        sides = [math.isqrt(short * long) for short, long in shapes]
        squares = [content("texture", (side, side), "u1", 0) for side in sides]
        free = {k: v for k, v in chosen.items() if k not in ("transform", "initial")}
        free = {k: v for k, v in free.items() if "mask" not in k}
        limit = MAX_RATIO * seconds(*squares, **free) + 0.5
        taken = seconds(*pair, **chosen)
        COUNT["times compared"] += 1
        assert taken <= limit, f"{shapes}: {taken:.1f} CPU s, squares {limit / MAX_RATIO:.1f}"
    return found


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
        found = timed(nb.register, pair, {"nodata": None, "device": "cpu", **chosen})
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
FUSION_MODELS = tuple(nb.list_models("fusion"))


def check_fuse(pair: tuple[Any, Any], model: str, chosen: dict[str, Any]) -> None:
    """`fuse` answers with finite values wherever the visible image has them, or refuses."""
    with refusals("fixed", "moving", "model", *FUSE_OPTIONS):
        given = {"model": model, "device": "cpu", "nodata": None, **chosen}
        found = timed(nb.fuse, pair, given)
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
        picture = timed(compare, pair, chosen)
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3


def check_scores(pair: tuple[Any, Any], truth: Any, mask: Any) -> None:
    """Scores are numbers in their ranges, or NaN where undefined, or the call refuses."""
    with refusals("fixed", "warped", "truth", "mask", "truth_mask"):
        scores = timed(alignment_scores, pair, {"truth": truth, "mask": mask})
        assert np.isnan(scores["nmi"]) or 1 <= scores["nmi"] <= 2 + 1e-9
        assert np.isnan(scores["ncc"]) or abs(scores["ncc"]) <= 1 + 1e-6
    with refusals("fused", "visible", "infrared", "images"):
        assert np.isfinite(list(fusion_scores(pair[0], *pair).values())).all()


@st.composite
def transforms(draw: st.DrawFn) -> nb.Transform:
    """A transform between small images, with or without displacement."""
    rng = np.random.default_rng(draw(st.integers(0, 5)))
    scale = draw(st.sampled_from([1.0, 1.0, 0.5, 1e-3, 1e4]))
    affine = np.eye(3)
    affine[:2, :2] = scale * (np.eye(2) + 0.2 * rng.standard_normal((2, 2)))
    affine[:2, 2] = draw(st.sampled_from([0, 3.5, -1e5])) * rng.standard_normal(2)
    shape = draw(st.sampled_from([(16, 20), (20, 16), (1, 5), (2, 300)]))
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


def check_files(
    transform: nb.Transform, metadata: Any, suffix: str, harm: str | None, seed: int
) -> None:
    """A saved transform is read back equal, or refused. A damaged one is named."""
    with tempfile.TemporaryDirectory() as folder, refusals("metadata", "path", "transform"):
        path = transform.save(Path(folder) / f"drawn{suffix}", metadata)
        assert nb.Transform.load(path) == transform
        with refusals("harmed", errors=UNREADABLE):
            nb.read_transform(harmed(path, harm, seed))


def harmed(path: Path, kind: str | None, seed: int) -> Path:
    """A damaged copy of a file beside it; the file itself for None."""
    if kind is None:
        return path
    other = path.with_name("other.png")
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(other)
    target = path.with_name(f"harmed {path.name}")
    damage(path, target, kind, np.random.default_rng(seed), other)
    return target


PLACES = st.one_of(st.integers(0, 4), st.integers(1, 2), NUMBERS)
#: Writers of image files, by name. What one cannot hold becomes an npy file.
WRITERS: dict[str, Callable[[Path, Any], Any]] = {
    "plain.tif": tifffile.imwrite,
    "tiles.tif": lambda path, image: tifffile.imwrite(
        path, image, compression="lzw", predictor=True, tile=(16, 16)
    ),
    "imagej.tif": lambda path, image: tifffile.imwrite(path, image, imagej=True),
    "drawn.ome.tif": lambda path, image: tifffile.imwrite(path, image, ome=True),
    "nodata.tif": lambda path, image: tifffile.imwrite(
        path, image, extratags=[(42113, "s", 0, "nan", True)]
    ),
    "drawn.jp2": lambda path, image: path.write_bytes(imagecodecs.jpeg2k_encode(image)),
    "drawn.npy": np.save,
    **dict.fromkeys(
        (f"drawn.{suffix}" for suffix in ("png", "jpg", "gif", "webp", "bmp")),
        lambda path, image: Image.fromarray(image).save(path),
    ),
}
READ_OPTIONS = dict.fromkeys(("band", "page", "channel", "memory_limit"), PLACES) | {
    "nodata": st.one_of(st.just("auto"), NUMBERS)
}


def check_images(
    array: np.ndarray, name: str, harm: str | None, chosen: dict[str, Any], seed: int
) -> None:
    """An image file is read, and its plane taken for an image; or the file is named."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                WRITERS[name](path, array)
        except Exception:
            path = path.with_suffix(".npy")
            np.save(path, array)
        path = harmed(path, harm, seed)
        for read in (nb.read_image, read_plane):
            with refusals(*READ_OPTIONS, re.escape(path.name), errors=UNREADABLE):
                found = read(path, **chosen)
                assert found.data.ndim >= 2 and found.data.dtype.kind in "biufc"
        with refusals("fixed", "moving", *READ_OPTIONS, re.escape(path.name), errors=UNREADABLE):
            plane = read_plane(path, **chosen).data
            nb.register(plane, plane, model="identity", refine="none", search="none")


ARRAYS = st.one_of(images(), st.sampled_from([None, 3, "a", [[1, 2], [3]], [[[1]]], object()]))
AFFINES = st.one_of(
    ARRAYS,
    st.sampled_from([np.eye(3), np.eye(3).tolist(), np.zeros((3, 3)), np.eye(3) * 1e300]),
)
SHAPES = st.sampled_from([(16, 16), (16.0, 16), (0, 4), (-1, 2), (3,), None, "ab", (1e9, 1e9)])
HARM = st.one_of(st.none(), st.sampled_from(KINDS))
METADATA = st.sampled_from([None, {}, {"a": 1}, {"a": math.nan}, {"a": object()}, {1: 2}, [1], 3])

#: By function: the check, and the strategies of its arguments.
CHECKS: dict[str, tuple[Callable[..., None], Callable[[tuple[Any, ...]], tuple[Any, ...]]]] = {
    "fuse": (
        check_fuse,
        lambda s: (pairs(s), st.sampled_from(FUSION_MODELS), options(**FUSE_OPTIONS)),
    ),
    "compare": (check_compare, lambda s: (pairs(s), options(**COMPARE_OPTIONS))),
    "scores": (check_scores, lambda s: (pairs(s), mostly_none(images(s)), mostly_none(images(s)))),
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
            st.sampled_from([*(0, 1, 3) * 5, 5, 6, 1.5, None, "a"]),
            mostly_none(NUMBERS),
        ),
    ),
    "made": (check_made, lambda s: (AFFINES, st.none() | ARRAYS, SHAPES)),
    "files": (
        check_files,
        lambda s: (
            transforms(),
            METADATA,
            st.sampled_from([".busref.h5", ".h5", "", ".png"]),
            HARM,
            st.integers(0, 99),
        ),
    ),
    "images": (
        check_images,
        lambda s: (
            images(s, containers=("numpy",)),
            st.sampled_from(sorted(WRITERS)),
            HARM,
            options(**READ_OPTIONS),
            st.integers(0, 99),
        ),
    ),
    "register": (
        check_register,
        lambda s: (pairs(s), st.one_of(FAST, options(**REGISTER_OPTIONS))),
    ),
}


def run(
    name: str,
    examples: int,
    shapes: tuple[tuple[int, int], ...] = SMALL,
    phases: tuple[Phase, ...] = tuple(Phase),
) -> None:
    """Run a check on drawn examples, the same ones every time."""
    check, arguments = CHECKS[name]
    quiet = settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    quiet(given(*arguments(shapes))(check))()


def main() -> None:
    """Run all checks, also after one that fails."""
    global COMPARE_TIMES
    COMPARE_TIMES = True
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=1000, help="of all functions together")
    parser.add_argument("names", nargs="*", default=list(CHECKS))
    given_options = parser.parse_args()
    examples = max(given_options.examples // len(given_options.names), 1)
    failed = []
    for name in given_options.names:
        began = time.process_time()
        COUNT.clear()
        try:
            run(name, examples, LARGE, (Phase.generate,))  # to shrink an example takes hours
        except Exception:
            traceback.print_exc(file=sys.stdout)
            failed.append(name)
        counts = ", ".join(f"{number} {what}" for what, number in COUNT.items())
        print(f"{name}: {time.process_time() - began:.0f} CPU s, {counts}", flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
