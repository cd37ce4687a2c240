"""Run a network: sessions on a device, cancellation, conversion of arrays."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from functools import wraps
from itertools import chain
from threading import Event, get_ident
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_busref.runtime.device import resolve_device
from napari_busref.runtime.options import check_choice
from napari_busref.runtime.progress import check
from napari_busref.runtime.threads import adapt_threads, following_load
from napari_busref.runtime.version import package_version

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


P = ParamSpec("P")
T = TypeVar("T")

_POLL_SECONDS = 0.02  # between two checks for cancellation


@dataclass(frozen=True)
class InferenceSession:
    """A network in evaluation mode on its device.

    Attributes
    ----------
    module : torch.nn.Module
        In evaluation mode on `device`.
    device : torch.device
        Where it runs.
    name : str
        Its requested name or path, or the name of its class.
    """

    module: nn.Module
    device: torch.device
    name: str

    def tensor(self, image: NDArray[Any]) -> Tensor:
        """Convert an image (H, W) to a tensor (1, 1, H, W) of the network's number type."""
        import torch

        dtype = next(
            (p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32
        )
        return torch.tensor(image, dtype=torch.float32)[None, None].to(self.device, dtype)


@contextmanager
def inference_session(
    model: str | os.PathLike[str] | nn.Module,
    kind: str,
    device: str | torch.device,
    precision: str = "float32",
) -> Iterator[InferenceSession]:
    """Load a model, run the body without gradients, and release the device's memory.

    With the precision ``"bfloat16"`` torch's autocast rounds the inputs of convolutions and matrix
    products; the stored weights do not change.

    A module given as `model` stays on its device when `device` is ``"auto"``, else it moves. Its
    training mode is restored afterwards.

    Raises
    ------
    ValueError
        For an unknown precision.
    MemoryError
        When the device runs out of memory in the body.
    """
    import torch

    check_choice("precision", precision)

    modes: dict[nn.Module, bool] = {}
    if isinstance(model, torch.nn.Module):
        held = next(chain(model.parameters(), model.buffers()), None)
        here = device == "auto" and held is not None
        target = held.device if here and held is not None else resolve_device(device)
        modes = {part: part.training for part in model.modules()}
        found = InferenceSession(model.to(target).eval(), target, type(model).__name__)
    elif isinstance(model, str | os.PathLike):
        from napari_busref.models.registry import shared_model

        target = resolve_device(device)
        name = os.fspath(model)
        found = InferenceSession(shared_model(name, kind=kind, device=target), target, name)
    else:
        raise TypeError(
            f"model: got {type(model).__name__}, need a name, a path to a .safetensors file or a "
            "torch.nn.Module"
        )
    try:
        rounded = torch.autocast(
            target.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False
        )
        with torch.inference_mode(), rounded:
            yield found
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            clear_frames(error.__traceback__)  # frames hold tensors as long as the error lives
            raise MemoryError(
                f"not enough memory on {found.device} for images of this size; use "
                'device="cpu", smaller images or, to fuse, smaller tiles'
            ) from error
        raise
    finally:
        for part, training in modes.items():
            part.training = training
        if not modes and target.type != "cpu":  # loaded here: free its memory
            found.module.to("cpu")
            (torch.cuda if target.type == "cuda" else torch.mps).empty_cache()


@contextmanager
def cancellable(modules: Iterable[nn.Module], check: Callable[[], None]) -> Iterator[None]:
    """Call ``check``, which may raise to cancel, before every layer of the modules.

    There, torch's threads also follow the load of the machine. A network may take a second for a
    large image. Only calls in this thread are cancelled: others may use the same modules.
    """
    owner = get_ident()

    def before(*_: object) -> None:
        if get_ident() == owner:
            check()
            adapt_threads()

    layers = {layer for module in modules for layer in module.modules()}
    hooks = [layer.register_forward_pre_hook(before) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def run_detached(work: Callable[[], T], check: Callable[[], None]) -> T:
    """Run ``work`` in a separate thread, and abandon the thread once ``check`` raises.

    One layer may take a second for a large image, and cannot be interrupted. ``work`` must poll
    the same flag to end soon after. Modes of torch are per thread: ``work`` sets its own.
    """

    def attended() -> T:
        with following_load():
            return work()

    pool = ThreadPoolExecutor(1, "napari-busref")
    try:
        future, done = pool.submit(copy_context().run, attended), Event()
        future.add_done_callback(lambda _: done.set())
        while not done.wait(_POLL_SECONDS):
            check()
        return future.result()
    finally:
        pool.shutdown(wait=False)


def long_call(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function with a ``cancel`` event: it ends at once, and follows the load.

    A call with ``cancel`` runs in a thread, which setting the event abandons. With
    ``on_cancel="best"`` it has something to return, and ends by itself.
    """

    @wraps(function)
    def call(*args: P.args, **keywords: P.kwargs) -> T:
        cancel: Any = keywords.get("cancel")
        if cancel is not None and keywords.get("on_cancel", "raise") == "raise":
            return run_detached(lambda: function(*args, **keywords), lambda: check(cancel))
        with following_load():
            return function(*args, **keywords)

    return call


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect a result."""
    names = ("napari-busref", "torch", "numpy", "scipy", "scikit-image")
    return {"python": platform.python_version()} | {n: package_version(n) for n in names}


def to_array(tensor: Tensor) -> NDArray[np.float32]:
    """Convert a tensor (1, 1, H, W) to a float32 array (H, W)."""
    return tensor.detach().float().cpu().numpy()[0, 0]
