"""Trained networks as safetensors files, which execute nothing when they are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from atlasmith.core.errors import AtlasmithError
from atlasmith.io.files import atomic_write

Network = TypeVar("Network", bound=nn.Module)


def write_weights(path: str | Path, network: nn.Module, about: Mapping[str, Any]) -> None:
    """Write a network's weights.

    Args:
        path: The file.
        network: The network.
        about: Plain values to keep with it, such as the arguments that build it: see `read_network`.
    """
    write_tensors(path, network.state_dict(), about)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write named tensors, and plain values about them, as safetensors."""
    found = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_write(path) as partial:
        # One entry: safetensors writes several in any order, and equal tensors should be equal bytes.
        # Not save_file, which lets the owner alone read what it writes.
        partial.write_bytes(save(found, {"atlasmith": json.dumps(about)}))


def read_network(path: str | Path, build: Callable[..., Network]) -> Network:
    """Build a network and load its weights.

    Args:
        path: A file of `write_weights`.
        build: Called with the values of `about`, by keyword.

    Returns:
        The network in evaluation mode.

    Raises:
        AtlasmithError: If the file is unreadable, or from another version of the network.
    """
    about, tensors = read_weights(path)
    try:
        network = build(**about)
        network.load_state_dict(tensors)
    except (TypeError, RuntimeError):
        raise AtlasmithError(f"{path}: written by another version of atlasmith. Train it again.") from None
    return network.eval()


def read_weights(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file of `write_weights` or `write_tensors`.

    Args:
        path: The file.

    Returns:
        The values of `about`, and the tensors by name.

    Raises:
        AtlasmithError: If the file may not be read, is damaged, or is from another program.
    """
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise AtlasmithError(
            f"{path}: can't be read ({error.strerror}). If the run is another user's, ask for the right to "
            "read its folder `model`."
        ) from None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return json.loads(file.metadata()["atlasmith"]), tensors
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise AtlasmithError(
            f"{path}: damaged, or no weights of atlasmith ({type(error).__name__}: {error}). Copy the file "
            "again, or train again."
        ) from None
