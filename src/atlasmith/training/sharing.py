"""Which of several GPUs a process computes on. Schedulers on one machine count GPUs, but assign none."""

from __future__ import annotations

import itertools
import os
import tempfile
from functools import cache
from pathlib import Path

from filelock import FileLock

from atlasmith.io.files import lock

_HELD: list[FileLock] = []  # until this process ends


@cache
def claim_gpu(count: int) -> int:
    """Choose the GPU of this process: the first of those that the fewest processes of this user have claimed.

    A claim is a locked file in the machine's temporary folder, which a killed process releases too. Under
    torchrun it is the GPU of this process's local rank, without a claim.

    Args:
        count: GPUs that this process may use.

    Returns:
        An index below `count`; the same whenever it is asked for.
    """
    if "LOCAL_RANK" in os.environ:
        return int(os.environ["LOCAL_RANK"])
    if count == 1:
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = visible if len(visible) == count else [str(index) for index in range(count)]
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"atlasmith-gpus-{user}"
    for place in itertools.count():
        for index, name in enumerate(names):
            try:
                held = lock(folder / f"{name.strip()}-{place}.lock")
            except BlockingIOError:
                continue
            if held is not None:
                _HELD.append(held)
            return index
    raise AssertionError("there is no last place")
