"""The verbs on engines of their own process, whose SDK workers have nothing but the installed sdist.

Flink, Spark and Prism run the same commands and must leave the same bytes as the local runner.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import tiny_documents
from engine_servers import (
    children,
    free_port,
    install_sdist,
    job_server_jar,
    prism_binary,
    server,
    without_checkout,
)

from model.bundle import Bundle
from pipelines.cli import main

pytestmark = pytest.mark.engines

ENGINES = ("prism", "flink", "spark")


@pytest.fixture(scope="module")
def installed_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_sdist(tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def worker_pool(installed_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A pool that starts a process for every SDK worker that an engine asks for: its address and its process id."""
    port, log = free_port(), tmp_path_factory.mktemp("pool") / "log.txt"
    command = [str(installed_python), "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"]
    with server(command, port, log, env=without_checkout(installed_python)) as pid:
        yield f"localhost:{port}", pid


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The Beam flags that reach an engine; one job server serves all tests."""
    port, folder = free_port(), tmp_path_factory.mktemp(request.param)
    if request.param == "prism":
        command = [str(prism_binary()), "-job_port", str(port), "-serve_http=false"]
        flags = ["--runner=PortableRunner"]
    else:
        artifact = {"flink": "beam-runners-flink-2.2-job-server", "spark": "beam-runners-spark-3-job-server"}
        master = {"flink": ["--flink-master=[local]"], "spark": ["--spark-master-url=local[2]"]}
        opened = [f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in ("sun.nio.ch", "java.nio", "java.util")]
        command = ["java", *opened, "-jar", str(job_server_jar(artifact[request.param])), f"--job-port={port}"]
        command += [*master[request.param], "--artifact-port=0", "--expansion-port=0", f"--artifacts-dir={folder}"]
        flags = {"flink": ["--runner=FlinkRunner", "--parallelism=2"], "spark": ["--runner=SparkRunner"]}[request.param]
    with server(command, port, folder / "log.txt"):
        yield [*flags, f"--job_endpoint=localhost:{port}"]


@dataclass(frozen=True)
class Job:
    """A scoring job, and the parts that the local runner makes of it."""

    bundle: Bundle
    inputs: str
    parts: dict[str, bytes]

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
    return Job(tiny_bundle, inputs, parts(output))


def score_command(bundle: Bundle, inputs: str, output: Path) -> list[str]:
    paths = ["--model", str(bundle.path), "--input", inputs, "--output", str(output)]
    return ["score", *paths, "--chunk-records", "5"]


def parts(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("part-*"))}


def external(pool: tuple[str, int]) -> list[str]:
    return ["--environment_type=EXTERNAL", f"--environment_config={pool[0]}"]


def sepline(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


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


def test_scoring_leaves_the_bytes_of_the_local_run(
    engine: list[str], worker_pool: tuple[str, int], job: Job, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, output = finish(sepline([*job.command(out), "--", *engine, *external(worker_pool)]))
    assert code == 0, output
    assert parts(out) == job.parts and len(job.parts) == 120
    assert (out / "_SUCCESS").exists()


def test_a_job_whose_worker_is_killed_fails_clean_or_recovers_and_ends_with_the_same_bytes(
    engine: list[str], worker_pool: tuple[str, int], job: Job, tmp_path: Path
) -> None:
    out, (_, pool) = tmp_path / "out", worker_pool
    flags = [*engine, *external(worker_pool)]
    command = job.command(out)
    before = set(children(pool))
    process = sepline([*command, "--", *flags])
    while not parts(out) and process.poll() is None:
        time.sleep(0.02)
    killed = set(children(pool)) - before
    for worker in killed:
        os.kill(worker, signal.SIGKILL)
    done = len(parts(out))
    code, output = finish(process)
    assert killed and 0 < done < len(job.parts), output
    assert (code == 0) == (out / "_SUCCESS").exists(), output
    if code:
        assert code == 1 and "the same command goes on from it" in output and "Traceback" not in output, output
        code, output = finish(sepline([*command, "--", *flags]))
        assert code == 0, output
    assert parts(out) == job.parts


def test_preprocessing_leaves_the_records_of_the_local_run(
    engine: list[str], tiny_encoder: Path, tiny_corpus: Path, tiny_records: Path, tmp_path: Path
) -> None:
    out = tmp_path / "records"
    settings = [f"encoder.handle={tiny_encoder}", "window.max_tokens=48", "window.context=1", "data.part_records=25"]
    settings += ["data.buckets=3", "data.splits={train: 0.6, dev: 0.2, test: 0.2}"]
    command = ["preprocess", "--input", str(tiny_corpus), "--output", str(out)]
    command += [argument for setting in settings for argument in ("--set", setting)]
    code, output = finish(sepline([*command, "--", *engine, "--environment_type=LOOPBACK"]))
    assert code == 0, output
    expected = {name: content for name, content in parts(tiny_records).items() if not name.startswith("transform")}
    assert {name: content for name, content in parts(out).items() if not name.startswith("transform")} == expected
    stats = [json.loads((folder / "stats.json").read_text(encoding="utf-8")) for folder in (out, tiny_records)]
    assert stats[0] == stats[1]
