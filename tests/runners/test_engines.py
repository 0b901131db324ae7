"""The verbs on engines of their own process, whose SDK workers have nothing but the installed sdist.

Flink, Spark and Prism run the same commands and must leave the same bytes as the local runner.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT, tiny_documents
from support.engine_clusters import flink_cluster, job_server_jar, spark_cluster
from support.engine_servers import children, free_port, kill, prism_binary, server, without_checkout
from test_documented_commands import blocks

from model.bundles.bundle import Bundle
from pipelines.cli import main

pytestmark = pytest.mark.engines

ENGINES = ("prism", "flink", "spark")


def on(engine: str, *values: str) -> Any:
    """Returns parameters of a test; one process runs all tests of an engine, so that it is started once."""
    return pytest.param(engine, *values, marks=pytest.mark.xdist_group(engine))


POOL = """
from apache_beam.portability.api import beam_fn_api_pb2
from pipelines.runners import worker_pool

pool = worker_pool.BeamFnExternalWorkerPoolServicer
pool.StopWorker = lambda *_: beam_fn_api_pb2.StopWorkerResponse()
worker_pool.main()
"""
"""The pool, shared by what stands for two machines, of which each would have one of its own.

Both number their workers from 1, so that stopping one's would stop the other's; here workers end when the one who asked
for them hangs up."""


@pytest.fixture(scope="module")
def worker_pool(installed_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A pool that starts a process for every SDK worker that an engine asks for: its address and its process id."""
    port, log = free_port(), tmp_path_factory.mktemp("pool") / "log.txt"
    command = [str(installed_python), "-c", POOL, f"--service-port={port}"]
    with server(command, port, log, env=without_checkout(installed_python)) as pid:
        yield f"localhost:{port}", pid


@dataclass(frozen=True)
class Engine:
    """What runs jobs.

    Attributes:
        name: as in `ENGINES`.
        flags: Beam's flags that reach it.
        machines: process ids of what stands for the machines of a cluster, each with SDK workers of its own.
    """

    name: str
    flags: list[str]
    machines: list[int]


@pytest.fixture(scope="module", params=[on(name) for name in ENGINES])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine of its own processes; one job server serves all tests."""
    name, port, folder = request.param, free_port(), tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        if name == "prism":
            command = [str(prism_binary()), "-job_port", str(port), "-serve_http=false"]
            flags, machines = ["--runner=PortableRunner"], []
        else:
            jar = job_server_jar(name)
            cluster = stack.enter_context({"flink": flink_cluster, "spark": spark_cluster}[name](folder))
            command = ["java", "-jar", str(jar), *cluster.flags, f"--job-port={port}", "--artifact-port=0"]
            command += ["--expansion-port=0", f"--artifacts-dir={folder}"]
            flags = {"flink": ["--runner=FlinkRunner", "--parallelism=2"], "spark": ["--runner=SparkRunner"]}[name]
            machines = cluster.workers
        stack.enter_context(server(command, port, folder / "log.txt"))
        yield Engine(name, [*flags, f"--job_endpoint=localhost:{port}"], machines)


@dataclass(frozen=True)
class Job:
    """A scoring job, and the folder that the local runner makes of it."""

    bundle: Bundle
    inputs: str
    output: Path

    @property
    def contents(self) -> dict[str, bytes]:
        return contents(self.output)

    def command(self, output: Path) -> list[str]:
        return score_command(self.bundle, self.inputs, output)


@pytest.fixture(scope="module")
def job(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Six files of 100 documents; some sentences are longer than a window."""
    folder = tmp_path_factory.mktemp("texts")
    for number in range(6):
        records = [
            {"doc_id": f"{number}/{document['doc_id']}", "text": " ".join(document["sentences"])}
            for document in tiny_documents(100, seed=number)
        ]
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{number}.jsonl").write_text(lines, encoding="utf-8")
    inputs, output = str(folder / "*.jsonl"), tmp_path_factory.mktemp("local")
    assert main([*score_command(tiny_bundle, inputs, output), "--workers", "1"]) == 0
    return Job(tiny_bundle, inputs, output)


def score_command(bundle: Bundle, inputs: str, output: Path) -> list[str]:
    paths = ["--model", str(bundle.path), "--input", inputs, "--output", str(output)]
    return ["score", *paths, "--chunk-records", "5"]


def parts(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("part-*"))}


def contents(folder: Path) -> dict[str, bytes]:
    """Returns all that a finished folder holds, the manifest included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def external(pool: tuple[str, int]) -> list[str]:
    return ["--environment_type=EXTERNAL", f"--environment_config={pool[0]}"]


def sepline(arguments: list[str], *, cwd: Path | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=1500)
    return process.returncode, output


@pytest.mark.xdist_group("prism")
def test_the_worker_has_the_installed_package(installed_python: Path, tmp_path: Path) -> None:
    """Code, package data and version come from the sdist; nothing is read from the checkout."""
    program = (
        "import model, pipelines, pipelines.corpora; from pathlib import Path\n"
        "print(pipelines.__file__, Path(pipelines.corpora.__file__).with_name('medline_labels.yaml').exists())"
    )
    environment = without_checkout(installed_python)
    result = subprocess.run(
        [installed_python, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    path, has_data = result.stdout.split()
    assert Path(path).is_relative_to(installed_python.parent.parent) and has_data == "True"


@pytest.mark.parametrize("name", [on(name) for name in ENGINES])
def test_the_documented_command(name: str, job: Job, tmp_path: Path) -> None:
    """Of docs/running-at-scale.md, on other paths: the engine begins and ends with the command, workers run here."""
    page, test = PROJECT / "docs" / "running-at-scale.md", "tests/runners/test_engines.py::test_the_documented_command"
    (block,) = [block for block in blocks(page) if block.run_by == test and name in block.text]
    (command,) = [command for command in block.commands if command.startswith("sepline ")]
    out = tmp_path / "out"
    ours = {"run/bundle": str(job.bundle.path), "medline/*.xml.gz": job.inputs, "scored": str(out)}
    if name == "prism":
        ours["--prism_location=$(go env GOPATH)/bin/prism"] = f"--prism_location={prism_binary()}"
    else:
        assert str(job_server_jar(name).relative_to(PROJECT)) in command
    _, verb, *words = shlex.split(command)
    assert ours.keys() <= {*words}
    arguments = [verb, "--chunk-records", "5", *(ours.get(word, word) for word in words)]
    code, output = finish(sepline(arguments, cwd=PROJECT))
    assert code == 0, output
    assert contents(out) == job.contents


def test_scoring_leaves_the_bytes_of_the_local_run(
    engine: Engine, worker_pool: tuple[str, int], job: Job, tmp_path: Path
) -> None:
    out, (_, pool) = tmp_path / "out", worker_pool
    process, seen = sepline([*job.command(out), "--", *engine.flags, *external(worker_pool)]), set[int]()
    while process.poll() is None:
        seen |= set(children(pool))
        time.sleep(0.1)
    code, output = finish(process)
    assert code == 0, output
    assert contents(out) == job.contents and len(parts(out)) == 120
    assert len(seen) >= (1 if engine.name == "prism" else 2)  # Prism has one SDK worker for an environment


def test_preprocessing_leaves_the_records_of_the_local_run(
    engine: Engine, worker_pool: tuple[str, int], tiny_command: list[str], tiny_records: Path, tmp_path: Path
) -> None:
    out = tmp_path / "records"
    code, output = finish(sepline([*tiny_command, str(out), "--", *engine.flags, *external(worker_pool)]))
    assert code == 0, output
    # The graph is never written twice alike, and so its checksum is not the same.
    others = ("transform", "files.json", "COMPLETED")
    expected = {name: content for name, content in parts(tiny_records).items() if not name.startswith(others)}
    assert {name: content for name, content in parts(out).items() if not name.startswith(others)} == expected
    stats = [json.loads((folder / "stats.json").read_text(encoding="utf-8")) for folder in (out, tiny_records)]
    assert stats[0] == stats[1]


@pytest.mark.parametrize(
    ("engine", "what"),
    [on(name, what) for name in ENGINES for what in ("SDK worker", "machine") if (name, what) != ("prism", "machine")],
    indirect=["engine"],
)
def test_a_job_that_loses_a_worker_fails_clean_or_recovers_and_ends_with_the_same_bytes(
    engine: Engine, worker_pool: tuple[str, int], job: Job, tmp_path: Path, what: str
) -> None:
    out, (_, pool) = tmp_path / "out", worker_pool
    flags = [*engine.flags, *external(worker_pool)]
    command = job.command(out)
    before = set(children(pool))
    process = sepline([*command, "--", *flags])
    while not parts(out) and process.poll() is None:
        time.sleep(0.02)
    # The SDK worker that came first: engines wait minutes for one that was about to come.
    kill(min(set(children(pool)) - before) if what == "SDK worker" else engine.machines.pop())
    done = len(parts(out))
    code, output = finish(process)
    assert 0 < done < len(parts(job.output)), output
    assert (code == 0) == (out / "_SUCCESS").exists(), output
    if code:
        assert code == 1 and "repeat the command to continue" in output and "Traceback" not in output, output
        assert re.search(r"the workers had in hand: .*\d\.jsonl, (records \d+ to|after record) \d+", output), output
        code, output = finish(sepline([*command, "--", *flags]))
        assert code == 0, output
    assert contents(out) == job.contents
