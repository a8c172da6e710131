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
    torchrun it is the GPU of this process's local rank. Where files can't be locked, processes are spread by
    their numbers.

    Args:
        count: GPUs that this process may use.

    Returns:
        An index below `count`; the same whenever it is asked for.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = visible if len(visible) == count and all(visible) else [str(index) for index in range(count)]
    rank = os.environ.get("LOCAL_RANK")
    candidates = range(count) if rank is None else [int(rank)]
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"atlasmith-gpus-{user}"
    for place in itertools.count():
        for index in candidates:
            try:
                held = lock(folder / f"{names[index].strip().replace('/', '-')}-{place}.lock")
            except BlockingIOError:
                continue
            except OSError:  # such as a folder of that name that belongs to another user
                held = None
            if held is None:
                return candidates[os.getpid() % len(candidates)]
            _HELD.append(held)
            return index
    raise AssertionError("there is no last place")
