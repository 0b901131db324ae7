"""The pool of SDK workers serves this machine alone, unless it is told otherwise."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from support.engine_servers import children, free_port, server, wait_until


def reaches(address: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


def test_other_interfaces_are_closed_and_workers_end_with_their_pool(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "pipelines.runners.worker_pool", f"--service-port={port}"]
    with server(command, port, tmp_path / "pool.txt") as pid:
        assert reaches("127.0.0.1", port)
        assert not reaches("127.0.0.2", port)  # stands for the machine's other addresses
        second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert second.returncode == 1 and "is another pool there?" in second.stderr

        flags = ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=EXTERNAL"]
        flags += [f"--environment_config=localhost:{port}", "--no_save_main_session"]
        with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
            _ = pipeline | beam.Create([str(tmp_path / "made")]) | beam.Map(os.mkdir)
        assert (tmp_path / "made").is_dir()
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not reaches("127.0.0.1", port) and not children(pid), tmp_path)


@pytest.mark.parametrize("host", ["127.0.0.2", "localhost"])
def test_the_host_can_be_named(host: str, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "pipelines.runners.worker_pool", f"--service-port={port}", f"--host={host}"]
    with server(command, port, tmp_path / "pool.txt", host=host):
        assert reaches("127.0.0.2", port) is (host == "127.0.0.2")
