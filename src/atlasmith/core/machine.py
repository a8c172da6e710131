"""The memory and the GPUs of the machine, within the limits of the job."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

MEMINFO, OWN_GROUP, CGROUP = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def total_memory() -> int:
    """Return the memory of the machine, bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory() -> int | None:
    """Find the free memory of the machine within the limits of the job's control groups.

    Returns:
        Bytes; None where the system doesn't tell.
    """
    known = []
    if MEMINFO.exists():
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        known.append(1024 * int(lines["MemAvailable"].split()[0]))
    for group in _control_groups():
        limit = group / "memory.max"
        if limit.exists() and limit.read_text().strip().isdigit():
            usage = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            page_cache = int(usage["active_file"]) + int(usage["inactive_file"])  # is freed on demand
            known.append(int(limit.read_text()) - int((group / "memory.current").read_text()) + page_cache)
    return min(known, default=None)


@cache
def count_gpus() -> int:
    """Count the NVIDIA GPUs that this process may compute on.

    Returns:
        Their number; 0 where `nvidia-smi` is missing or finds none, or this installation of torch can't use
        them.
    """
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    if not any(line.startswith("GPU ") for line in listed.splitlines()):
        return 0
    import torch  # late: it takes seconds, and most machines have no GPU

    return torch.cuda.device_count()


def _control_groups() -> list[Path]:
    """List the control groups (version 2) of this process, by which a scheduler limits its jobs."""
    lines = OWN_GROUP.read_text().splitlines() if OWN_GROUP.exists() else []
    own = [CGROUP / line[3:].strip("/") for line in lines if line.startswith("0::")]
    return [folder for path in own for folder in (path, *path.parents) if folder.is_relative_to(CGROUP)]
