"""Cores, memory and GPUs: what the machine has, less what a container may not use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.runners.local_processes import default_workers
from pipelines.runners.machine import free_memory, keep_to_quota, usable_cores, visible_gpus

GIB = 1 << 30


def write_files(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    return root


MEMINFO = {"proc/meminfo": f"MemTotal: {90 * GIB // 1024} kB\nMemAvailable: {64 * GIB // 1024} kB\n"}


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)


def test_without_limits_it_is_the_whole_machine(tmp_path: Path) -> None:
    root = write_files(tmp_path, MEMINFO)
    assert (usable_cores(root), free_memory(root)) == (8, 64 * GIB)
    assert free_memory(tmp_path / "nothing") == 0


def test_limits_of_new_control_groups_hold_with_those_above(tmp_path: Path) -> None:
    root = write_files(
        tmp_path,
        {
            **MEMINFO,
            "proc/self/cgroup": "0::/pods/one\n",
            "sys/fs/cgroup/pods/cpu.max": "250000 100000\n",
            "sys/fs/cgroup/pods/one/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pods/memory.max": "max\n",
            "sys/fs/cgroup/pods/one/memory.max": f"{6 * GIB}\n",
            "sys/fs/cgroup/pods/one/memory.current": f"{5 * GIB}\n",
            "sys/fs/cgroup/pods/one/memory.stat": f"anon 7\ninactive_file {2 * GIB}\n",
        },
    )
    assert (usable_cores(root), free_memory(root)) == (3, 3 * GIB)


def test_tensorflow_keeps_to_the_quota_unless_the_user_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TF_NUM_INTEROP_THREADS", "7")
    root = write_files(tmp_path, {**MEMINFO, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"})
    keep_to_quota(root)
    assert (os.environ["TF_NUM_INTRAOP_THREADS"], os.environ["TF_NUM_INTEROP_THREADS"]) == ("3", "7")


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    root = write_files(
        tmp_path,
        {
            **MEMINFO,
            "proc/self/cgroup": "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 4096\ninactive_file 1\n",
        },
    )
    assert (usable_cores(root), free_memory(root)) == (2, 3 * GIB + 4096)


def test_no_limit_is_no_limit(tmp_path: Path) -> None:
    root = write_files(
        tmp_path,
        {
            **MEMINFO,
            "proc/self/cgroup": "5:memory:/\n3:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
        },
    )
    assert (usable_cores(root), free_memory(root)) == (8, 64 * GIB)


@pytest.mark.parametrize(
    ("given", "names"),
    [(None, ["0", "1"]), ("1", ["1"]), ("GPU-7c", ["GPU-7c"]), ("1,-1,0", ["1"]), ("-1", []), ("", [])],
)
def test_gpus_are_those_of_the_container_and_of_the_environment(
    given: str | None, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_files(tmp_path, {f"dev/nvidia{name}": "" for name in ("0", "1", "ctl", "-uvm")})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus(root) == names
    assert visible_gpus(tmp_path / "none") == []


def test_one_worker_a_gpu_else_by_cores_and_memory(tmp_path: Path) -> None:
    assert default_workers(tmp_path, gpus=3) == 3
    assert default_workers(tmp_path) in (1, 2)  # for eight cores; fewer where memory is short
    with open(tmp_path / "model", "wb") as huge:
        huge.truncate(1 << 43)
    assert default_workers(tmp_path) == 1
