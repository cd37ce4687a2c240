"""Weights: safetensors files, each with a JSON card that holds its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_busref.models.user_folder import find_user_model, read_card
from napari_busref.runtime.file_safety import check_file, check_size

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = Path(__file__).resolve().parent.parent / "weights"
"""Folder of the shipped weights."""


def card(name_or_path: str | Path) -> dict[str, Any]:
    """Read the card of shipped weights or of a user's own file.

    Parameters
    ----------
    name_or_path : str or path
        Name of a model, or path of a ``.safetensors`` file.

    Returns
    -------
    dict
        Architecture and configuration, data, recipe, commit, device, steps, scores, sha256.

    Raises
    ------
    ValueError
        When the card is missing or unreadable.
    """
    path = weights_path(name_or_path).with_suffix(".json")
    try:
        return read_card(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model {str(name_or_path)!r}: the card {path} that belongs beside the weights "
            f"cannot be read: {error}"
        ) from error


def weights_path(name_or_path: str | Path) -> Path:
    """Path of shipped or of a user's weights (a plain name), or the given path."""
    path = Path(name_or_path)
    if len(path.parts) == 1 and not path.suffix:
        shipped = FOLDER / f"{path.name}.safetensors"
        own = None if shipped.exists() else find_user_model(path.name)
        return own or shipped
    if path.suffix != ".safetensors":
        raise ValueError(
            f"model {str(path)!r}: weights must be a .safetensors file; pickled checkpoints "
            "(.pt, .pth, .ckpt, .pkl) are not opened, because loading them runs code"
        )
    return path


def read_weights(name_or_path: str | Path, content: dict[str, Any]) -> dict[str, Tensor]:
    """Read a weights file and check its hash; tensors are returned as float32.

    Raises
    ------
    ValueError
        When the file is missing, is not a safetensors file (for example a pickle), does not
        match the hash on its card, or is above the memory limit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = weights_path(name_or_path)
    try:
        check_file(path)
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"model {str(name_or_path)!r}: weights {path} cannot be read: {error}"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != content["sha256"]:
        raise ValueError(
            f"model {str(name_or_path)!r}: weights {path} are damaged or do not match their card "
            f"(sha256 {found[:12]}..., the card has {str(content['sha256'])[:12]}...)"
        )
    try:
        tensors = load(data)
        check_size(4 * sum(tensor.numel() for tensor in tensors.values()), path, "weights")
        return {name: tensor.float() for name, tensor in tensors.items()}
    except SafetensorError as error:
        raise ValueError(f"model {str(path)!r} is not a safetensors file: {error}") from error


@contextmanager
def without_storage() -> Iterator[None]:
    """Build modules whose parameters have a shape only, for `torch.nn.Module.load_state_dict`.

    Constructors draw no random numbers and ignore the default number type.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class NothingDrawn(TorchFunctionMode):
        def __torch_function__(
            self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            draws = func in (torch.Tensor.normal_, torch.Tensor.uniform_)
            if draws or getattr(func, "__module__", "") == "torch.nn.init":
                # To draw without storage, torch imports its compiler: three CPU seconds.
                return args[0] if args else kwargs["tensor"]
            return func(*args, **kwargs)

    with torch.device("meta"), NothingDrawn():
        yield
