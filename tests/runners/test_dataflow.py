"""The jobs that Dataflow would be given, built offline from the shipped configurations, down to the last option."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from conftest import PROJECT
from support.engine_servers import without_checkout

from model.bundles.bundle import Bundle
from model.config import Settings
from model.encoders.encoder import open_encoder
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import fingerprint_sources
from pipelines.preprocessing.ingest import ingest
from pipelines.preprocessing.preprocess import RecordsJob, transform
from pipelines.preprocessing.records_folder import document_parts
from pipelines.runners.options import beam_options
from pipelines.scoring.score import score
from pipelines.scoring.settings import ScoreSettings

IMAGE = "us-central1-docker.pkg.dev/my-project/sepline/worker"
GPU = "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"


@dataclass(frozen=True)
class Built:
    """What Dataflow would be sent: the Job, the pipeline and its file, and the names of the staged files."""

    job: dict[str, Any]
    pipeline: Any
    file: Path
    staged: set[str]

    @property
    def pool(self) -> dict[str, Any]:
        (pool,) = self.job["environment"]["workerPools"]
        return dict(pool)

    @property
    def transforms(self) -> list[str]:
        return [transform.unique_name for transform in self.pipeline.components.transforms.values()]


def offline(folder: Path, config: str, *flags: str) -> PipelineOptions:
    """Returns a shipped configuration's options, made to write the job to a file instead of sending it."""
    for name in ("temp", "staging"):
        (folder / name).mkdir(parents=True)
    places = [f"--temp_location={folder}/temp", f"--staging_location={folder}/staging"]
    nowhere = ["--no_auth", "--dataflow_endpoint=http://localhost:9"]
    options = beam_options(str(PROJECT / "runner_configs" / config), [*places, *nowhere, *flags])
    options.view_as(GoogleCloudOptions).template_location = str(folder / "job.json")
    return options


def built(folder: Path) -> Built:
    file = folder / "staging" / "pipeline.pb"
    return Built(
        json.loads((folder / "job.json").read_text(encoding="utf-8")),
        beam_runner_api_pb2.Pipeline.FromString(file.read_bytes()),
        file,
        {path.name for path in (folder / "staging").iterdir()},
    )


def build_scoring(folder: Path, bundle: Bundle, corpus: Path, config: str, *flags: str) -> Built:
    options = offline(folder, config, *flags)
    try:
        score(
            str(bundle.path),
            [str(corpus)],
            str(folder / "out"),
            settings=ScoreSettings(),
            options=ReadOptions(),
            beam_options=options,
        )
    except Exception:  # nothing has run, so there may be nothing to publish
        assert (folder / "job.json").exists()
    return built(folder)


def build_preprocessing(folder: Path, records: Path, corpus: Path, settings: Settings, *flags: str) -> dict[str, Built]:
    """Builds the two jobs of preprocessing a corpus, each over what the one before it has left in its records."""
    copy = str(folder / "records")
    shutil.copytree(records, copy)

    def options(job: str) -> PipelineOptions:
        return offline(folder / job, "dataflow_cpu.yaml", *flags)

    sources = [(source, None) for source in fingerprint_sources([str(corpus)])]
    with pytest.raises(FileNotFoundError):  # the sums that the workers would have written
        ingest(sources, copy, data=settings.data, options=ReadOptions(), beam_options=options("ingest"))
    parts = document_parts(copy)
    run = RecordsJob(copy, copy, open_encoder(settings.encoder).vocabulary, settings, options("transform"))
    with pytest.raises(FileNotFoundError):
        transform(parts, run)
    return {job: built(folder / job) for job in ("ingest", "transform")}


@pytest.fixture(scope="module")
def preprocessing(
    tiny_records: Path, tiny_corpus: Path, tiny_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Built]:
    return build_preprocessing(tmp_path_factory.mktemp("jobs"), tiny_records, tiny_corpus, tiny_settings)


@pytest.fixture(scope="module")
def setup_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The flag that has the package built and staged."""
    source = tmp_path_factory.mktemp("source")  # building leaves files beside the code
    for name in ("model", "pipelines"):
        shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(PROJECT / name, source / name)
    return f"--setup_file={source / 'setup.py'}"


CPU = {"image": f"{IMAGE}:cpu", "machineType": "n2-standard-8", "diskSizeGb": 50, "threads": 2, "most": 50}
ON_GPU = {"image": f"{IMAGE}:gpu", "machineType": "g2-standard-8", "diskSizeGb": 100, "threads": 4, "most": 8}


def assert_configured(job: Built, expected: dict[str, Any]) -> None:
    """Asserts that a job is as its configuration says and carries no code."""
    assert job.job["type"] == "JOB_TYPE_BATCH"
    pool = job.pool
    (container,) = pool["sdkHarnessContainerImages"]
    assert pool["workerHarnessContainerImage"] == container["containerImage"] == expected["image"]
    assert {name: pool[name] for name in ("machineType", "diskSizeGb")} == {
        name: expected[name] for name in ("machineType", "diskSizeGb")
    }
    assert pool["numThreadsPerWorker"] == expected["threads"]
    assert pool["autoscalingSettings"] == {
        "algorithm": "AUTOSCALING_ALGORITHM_BASIC",
        "maxNumWorkers": expected["most"],
    }
    environment = job.job["environment"]
    assert {"no_use_multiple_sdk_containers", "use_runner_v2"} <= set(environment["experiments"])
    assert environment.get("serviceOptions", []) == ([GPU] if expected is ON_GPU else [])
    # Nothing but the list of installed packages travels beside the pipeline: the code is in the image.
    assert job.staged == {"pipeline.pb", "submission_environment_dependencies.txt"}
    (worker,) = job.pipeline.components.environments.values()
    assert worker.urn == "beam:env:docker:v1" and not worker.resource_hints


@pytest.mark.parametrize(("config", "expected"), [("dataflow_cpu.yaml", CPU), ("dataflow_gpu.yaml", ON_GPU)])
def test_scoring(tiny_bundle: Bundle, tiny_corpus: Path, tmp_path: Path, config: str, expected: dict[str, Any]) -> None:
    job = build_scoring(tmp_path, tiny_bundle, tiny_corpus, config)
    assert_configured(job, expected)
    assert {"SpreadUnits", "ReadAndTokenize", "Classify", "WriteParts"} <= set(job.transforms)
    described = json.loads((tmp_path / "out" / "_job.json").read_text(encoding="utf-8"))
    # OpenVINO would leave the GPUs idle.
    assert described["identity"]["predictor"]["name"] == ("tensorflow" if expected is ON_GPU else "openvino")


def test_preprocessing(preprocessing: dict[str, Built]) -> None:
    steps = {
        "ingest": {"SpreadUnits", "ReadChunks", "WriteDocuments", "WriteSummary"},
        "transform": {"SpreadParts", "WriteWindows", "WriteSummary"},
    }
    for name, job in preprocessing.items():
        assert_configured(job, CPU)
        assert steps[name] <= set(job.transforms)


@pytest.fixture(scope="module")
def jobs_with_flags(
    tiny_bundle: Bundle,
    tiny_records: Path,
    tiny_corpus: Path,
    tiny_settings: Settings,
    setup_file: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Built]:
    """All jobs with options after the dashes."""
    folder = tmp_path_factory.mktemp("flags")
    flags = ["--machine_type=n2-highmem-16", "--experiments=extra", "--labels=team=x", "--resource_hints=min_ram=9GB"]
    flags.append(setup_file)
    jobs = build_preprocessing(folder / "jobs", tiny_records, tiny_corpus, tiny_settings, *flags)
    jobs["score"] = build_scoring(folder / "score", tiny_bundle, tiny_corpus, "dataflow_cpu.yaml", *flags)
    return jobs


def test_the_package_can_be_staged_instead(jobs_with_flags: dict[str, Built]) -> None:
    for job in jobs_with_flags.values():
        assert "workflow.tar.gz" in {package["name"] for package in job.pool["packages"]}
        assert "workflow.tar.gz" in job.staged and "pickled_main_session" not in job.staged


def test_options_after_the_dashes_reach_the_job(jobs_with_flags: dict[str, Built]) -> None:
    for job in jobs_with_flags.values():
        assert job.pool["machineType"] == "n2-highmem-16"
        assert {"extra", "no_use_multiple_sdk_containers"} <= set(job.job["environment"]["experiments"])
        assert job.job["labels"]["team"] == "x"
        (worker,) = job.pipeline.components.environments.values()
        assert worker.resource_hints["beam:resources:min_ram_bytes:v1"] == b"9000000000"


READ_JOBS = """
import sys
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2

for path in sys.argv[1:]:
    with open(path, "rb") as file:
        job = beam_runner_api_pb2.Pipeline.FromString(file.read())
    beam.Pipeline.from_runner_api(job, "FnApiRunner", PipelineOptions([]))  # unpickles every function in it
print(sys.modules["pipelines"].__file__)
"""


def test_workers_with_nothing_but_the_package_can_read_the_jobs(
    tiny_bundle: Bundle,
    tiny_corpus: Path,
    preprocessing: dict[str, Built],
    installed_python: Path,
    tmp_path: Path,
) -> None:
    scoring = build_scoring(tmp_path / "score", tiny_bundle, tiny_corpus, "dataflow_cpu.yaml")
    files = [job.file for job in (scoring, *preprocessing.values())]
    result = subprocess.run(
        [installed_python, "-c", READ_JOBS, *files],
        cwd=tmp_path,
        env=without_checkout(installed_python),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_relative_to(installed_python.parent.parent)
