"""The jobs that Dataflow would be given, built offline from the shipped configurations, down to the last option."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from conftest import PROJECT

from model.bundle import Bundle
from model.encoder import load_vocabulary
from pipelines.corpora import ReadOptions
from pipelines.preprocess import _analyze, _transform
from pipelines.runner_config import beam_options
from pipelines.score import ScoreSettings, score

IMAGE = "us-central1-docker.pkg.dev/my-project/sepline/worker"
GPU = "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"


@dataclass(frozen=True)
class Built:
    """What Dataflow would be sent: the Job, the pipeline, and the names of the staged files."""

    job: dict[str, Any]
    pipeline: Any
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
    return Built(
        json.loads((folder / "job.json").read_text(encoding="utf-8")),
        beam_runner_api_pb2.Pipeline.FromString((folder / "staging" / "pipeline.pb").read_bytes()),
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


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            "dataflow_cpu.yaml",
            {"image": f"{IMAGE}:cpu", "machineType": "n2-standard-8", "diskSizeGb": 50, "threads": 2, "most": 50},
        ),
        (
            "dataflow_gpu.yaml",
            {"image": f"{IMAGE}:gpu", "machineType": "g2-standard-8", "diskSizeGb": 100, "threads": 4, "most": 8},
        ),
    ],
)
def test_scoring(
    tiny_bundle: Bundle, tiny_corpus: Path, tmp_path: Path, config: str, expected: dict[str, object]
) -> None:
    job = build_scoring(tmp_path, tiny_bundle, tiny_corpus, config)
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
    assert environment.get("serviceOptions", []) == ([GPU] if "gpu" in config else [])
    # Nothing but the list of installed packages travels beside the pipeline: the code is in the image.
    assert job.staged == {"pipeline.pb", "submission_environment_dependencies.txt"}
    (worker,) = job.pipeline.components.environments.values()
    assert worker.urn == "beam:env:docker:v1" and not worker.resource_hints
    for step in ("SpreadUnits", "ReadChunks", "SplitAndTokenize", "WriteParts"):
        assert step in job.transforms


def test_the_package_can_be_staged_instead(tiny_bundle: Bundle, tiny_corpus: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"  # building leaves files beside the code
    for name in ("model", "pipelines"):
        shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(PROJECT / name, source / name)
    flags = [f"--setup_file={source / 'setup.py'}"]
    job = build_scoring(tmp_path / "job", tiny_bundle, tiny_corpus, "dataflow_cpu.yaml", *flags)
    assert "workflow.tar.gz" in {package["name"] for package in job.pool["packages"]}
    assert "pickled_main_session" not in job.staged


def test_options_after_the_dashes_reach_the_job(tiny_bundle: Bundle, tiny_corpus: Path, tmp_path: Path) -> None:
    flags = ["--machine_type=n2-highmem-16", "--experiments=extra", "--labels=team=x", "--resource_hints=min_ram=9GB"]
    job = build_scoring(tmp_path, tiny_bundle, tiny_corpus, "dataflow_cpu.yaml", *flags)
    assert job.pool["machineType"] == "n2-highmem-16"
    assert {"extra", "no_use_multiple_sdk_containers"} <= set(job.job["environment"]["experiments"])
    assert job.job["labels"]["team"] == "x"
    (worker,) = job.pipeline.components.environments.values()
    assert worker.resource_hints["beam:resources:min_ram_bytes:v1"] == b"9000000000"


def test_preprocessing(tiny_records: Path, tiny_settings: Any, tmp_path: Path) -> None:
    """The two pipelines with TensorFlow in them, over documents that the first has written."""
    parts = sorted(
        str(path.relative_to(tiny_records / "documents")) for path in tiny_records.glob("documents/*/part-*")
    )
    folder = tmp_path / "records"
    shutil.copytree(tiny_records, folder)
    vocabulary = load_vocabulary(tiny_settings.encoder)
    options = offline(tmp_path / "analyze", "dataflow_cpu.yaml")
    _analyze(parts, folder, vocabulary=vocabulary, data=tiny_settings.data, beam_options=options)
    analyze = built(tmp_path / "analyze")
    options = offline(tmp_path / "transform", "dataflow_cpu.yaml")
    with pytest.raises(FileNotFoundError):  # the sums that the workers would have written
        _transform(parts, folder, vocabulary=vocabulary, settings=tiny_settings, beam_options=options)
    transform = built(tmp_path / "transform")
    assert any(name.startswith("Analyze") for name in analyze.transforms)
    assert "WriteWindows" in transform.transforms
    for job in (analyze, transform):
        assert job.pool["workerHarnessContainerImage"] == f"{IMAGE}:cpu"
        assert job.staged == {"pipeline.pb", "submission_environment_dependencies.txt"}
