"""What this process may use of the machine: cores, memory and GPUs, in a container too."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
_CGROUPS = "sys/fs/cgroup"
_UNLIMITED = 1 << 60  # version 1 writes a number like it where there is no limit

runs_command = False
"""Whether this process runs a command of sepline and nothing else, so that all its threads are known."""


def usable_cores(root: Path = _ROOT) -> int:
    """Returns how many cores the process may keep busy: by its affinity, and by the quota of its control groups.

    Args:
        root: of the file system.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups(root, "cpu"):
        quota, period = [*_words(group / "cpu.max"), "max", "0"][:2]
        if not (group / "cpu.max").exists():
            quota, period = _first(group / "cpu.cfs_quota_us"), _first(group / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


def keep_to_quota(root: Path = _ROOT) -> None:
    """Lets TensorFlow start as many threads as the process has cores; it knows affinity, and no quota.

    It has no effect once TensorFlow has run. A number of threads that the user has set stays.

    Args:
        root: of the file system.
    """
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, str(usable_cores(root)))


def free_memory(root: Path = _ROOT) -> int:
    """Returns the available memory in bytes, caches that can be given up included; 0 if the system does not tell.

    The limits of the process's control groups count, less what their processes use already.

    Args:
        root: of the file system.
    """
    available = [
        int(line.split()[1]) * 1024 for line in _lines(root / "proc/meminfo") if line.startswith("MemAvailable:")
    ]
    for group in _groups(root, "memory"):
        new = (group / "memory.max").exists()
        limit = _first(group / ("memory.max" if new else "memory.limit_in_bytes"))
        used = _first(group / ("memory.current" if new else "memory.usage_in_bytes"))
        caches = [line.split()[1] for line in _lines(group / "memory.stat") if line.startswith(_cache_line(new=new))]
        if limit.isdigit() and used.isdigit() and int(limit) < _UNLIMITED:
            available.append(max(0, int(limit) - int(used) + sum(map(int, caches))))
    return min(available, default=0)


def visible_gpus(root: Path = _ROOT) -> list[str]:
    """Returns the names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them.

    Args:
        root: of the file system.
    """
    devices = [device for device in (root / "dev").glob("nvidia*") if device.name[6:].isdigit()]
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None or not devices:
        return [str(number) for number in range(len(devices))]
    names: list[str] = []
    for name in (name.strip() for name in given.split(",")):
        if not name or name.startswith("-"):  # CUDA ignores what follows, too
            break
        names.append(name)
    return names


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yields the folders of the control groups that limit the process: its own and those above it.

    In a container, the group's path may be the host's, while the container sees its own group as the root.
    """
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            top = root / _CGROUPS
        elif controller in controllers.split(","):
            top = next((each for each in _mounts(root, controllers, controller) if each.is_dir()), root / _CGROUPS)
        else:
            continue
        own = top / path.strip("/")
        yield from (folder for folder in [own, *own.parents] if folder == top or top in folder.parents)


def _mounts(root: Path, controllers: str, controller: str) -> Iterator[Path]:
    yield root / _CGROUPS / controllers
    yield root / _CGROUPS / controller


def _cache_line(*, new: bool) -> str:
    return "inactive_file " if new else "total_inactive_file "


def _first(file: Path) -> str:
    return next(iter(_words(file)), "")


def _words(file: Path) -> list[str]:
    return " ".join(_lines(file)).split()


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
