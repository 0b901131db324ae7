"""Flink and Spark for the tests of runners: Beam's job server, and a cluster of two workers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import yaml
from conftest import PROJECT

from support.engine_servers import free_port, python_package, running, server, wait_until
from support.requirements import skip_unless_required

FLINK = "1.19.0"
SPARK = re.findall(
    "<spark.version>(.*)</spark.version>", (PROJECT / "runner_configs" / "job_server.xml").read_text(encoding="utf-8")
)[0]


def job_server_jar(runner: str) -> Path:
    """Returns Beam's job server for a runner, which `make` has Maven put together on first use."""
    for program in ("mvn", "java"):
        if shutil.which(program) is None:
            skip_unless_required(runner, f"its job server needs Maven and Java, and there is no {program}")
    jar = f"build/{runner}/job-server.jar"
    made = subprocess.run(["make", jar], cwd=PROJECT, capture_output=True, text=True, check=False)
    if made.returncode:
        reasons = [line for line in made.stdout.splitlines() if "ERROR" in line]
        skip_unless_required(runner, f"Maven can't make {jar}: {next(iter(reasons), made.stderr)}")
    return PROJECT / jar


@dataclass(frozen=True)
class Cluster:
    """A leader and two workers, each a process.

    Attributes:
        flags: what a job server must be told.
        workers: the workers' process ids.
    """

    flags: list[str]
    workers: list[int]


@contextmanager
def flink_cluster(folder: Path) -> Iterator[Cluster]:
    """Runs a Flink with two task managers of two slots, which tries a job again when it fails."""
    package = python_package(f"apache-flink-libraries=={FLINK}", capability="flink") / "pyflink"
    port = free_port()
    sizes = {
        **{f"{kind}.{place}.size": "128m" for kind in ("task", "framework") for place in ("heap", "off-heap")},
        **dict.fromkeys(("network.min", "network.max"), "512m"),
        **dict.fromkeys(("jvm-overhead.min", "jvm-overhead.max", "managed.size", "jvm-metaspace.size"), "64m"),
    }
    settings = {
        "rest.port": port,
        "jobmanager.rpc.port": free_port(),
        "jobmanager.rpc.address": "localhost",
        "jobmanager.memory.process.size": "1g",
        "taskmanager.cpu.cores": 1.0,
        "taskmanager.numberOfTaskSlots": 2,
        **{f"taskmanager.memory.{name}": size for name, size in sizes.items()},
        "restart-strategy.type": "fixed-delay",
        "restart-strategy.fixed-delay.delay": "1 s",
        "restart-strategy.fixed-delay.attempts": 3,
        "cluster.evenly-spread-out-slots": True,
        "heartbeat.interval": 1000,
        "heartbeat.timeout": 5000,
        "io.tmp.dirs": str(folder),
    }
    (folder / "flink-conf.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    opened = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in ("lang", "net", "nio", "util")]
    java = ["java", "-Xmx512m", "-XX:MaxDirectMemorySize=1g", *opened, "-cp", f"{package}/lib/*"]
    leader = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
    worker = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
    with ExitStack() as stack:
        stack.enter_context(server([*java, leader, "--configDir", str(folder)], port, folder / "leader.txt"))
        command = [*java, worker, "--configDir", str(folder)]
        workers = [stack.enter_context(running(command, folder / f"worker-{number}.txt")) for number in range(2)]
        wait_until(lambda: _get(f"http://localhost:{port}/overview").get("taskmanagers") == 2, folder)
        yield Cluster([f"--flink-master=localhost:{port}"], workers)


@contextmanager
def spark_cluster(folder: Path) -> Iterator[Cluster]:
    """Runs a Spark with two workers of one core; each starts an executor for a job."""
    package = python_package(f"pyspark=={SPARK}", capability="spark") / "pyspark"
    port, page = free_port(), free_port()
    env = {**os.environ, "SPARK_HOME": str(package), "SPARK_LOCAL_IP": "127.0.0.1"}
    java = [str(package / "bin" / "spark-class")]
    leader = ["org.apache.spark.deploy.master.Master", "--port", str(port), "--webui-port", str(page)]
    worker = ["org.apache.spark.deploy.worker.Worker", "--cores", "1", "--memory", "1g", "--webui-port", "0"]
    with ExitStack() as stack:
        command = [*java, *leader, "--host", "localhost"]
        stack.enter_context(server(command, port, folder / "leader.txt", env=env))
        workers = []
        for number in range(2):
            command = [*java, *worker, "--host", "localhost", "--work-dir", str(folder / str(number))]
            command.append(f"spark://localhost:{port}")
            workers.append(stack.enter_context(running(command, folder / f"worker-{number}.txt", env=env)))
        wait_until(lambda: _get(f"http://localhost:{page}/json/").get("aliveworkers") == 2, folder)
        yield Cluster([f"--spark-master-url=spark://localhost:{port}"], workers)


def _get(url: str) -> dict[str, Any]:
    try:
        with urlopen(url) as answer:
            return dict(json.load(answer))
    except (URLError, ConnectionError):  # not yet
        return {}
