"""Trained networks as files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from atlasmith.core.errors import AtlasmithError
from atlasmith.io.files import atomic_write

Network = TypeVar("Network", bound=nn.Module)


def write_weights(path: str | Path, network: nn.Module, about: Mapping[str, Any]) -> None:
    """Write a network's weights, and what is to be known about it, as safetensors."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with atomic_write(path) as partial:
        # One entry: safetensors writes several in any order, and equal networks should be equal bytes.
        save_file(tensors, partial, {"atlasmith": json.dumps(about)})


def read_network(path: str | Path, build: Callable[..., Network]) -> Network:
    """`build` of what `write_weights` was told, with the weights; raises `AtlasmithError` where they don't
    fit."""
    about, tensors = read_weights(path)
    try:
        network = build(**about)
        network.load_state_dict(tensors)
    except (TypeError, RuntimeError):
        raise AtlasmithError(f"{path}: another version of atlasmith made this. Train it again.") from None
    return network.eval()


def read_weights(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `write_weights` was told about the network, and its weights; raises `AtlasmithError` where the
    file is none of its."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return json.loads(file.metadata()["atlasmith"]), tensors
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise AtlasmithError(
            f"{path}: these are no weights of ours ({type(error).__name__}: {error}). Train again, or copy "
            "the file again."
        ) from None
