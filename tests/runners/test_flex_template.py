"""The Flex Template and the workers' image: parameters as on the command line, versions as in the constraints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import PROJECT
from support.constraints import PYTHONS, pinned_versions

from model.bundles.bundle import Bundle
from pipelines.cli import main
from pipelines.flex_launcher import command_line, parameters
from pipelines.flex_launcher import main as launch

CONFIGS = PROJECT / "runner_configs"


def test_the_templates_parameters_are_the_options_of_the_verb() -> None:
    template = json.loads((CONFIGS / "flex_template.json").read_text(encoding="utf-8"))
    options = parameters()
    assert {parameter["name"] for parameter in template["parameters"]} == set(options)
    assert {"model", "input", "output", "overwrite", "chunk_records"} <= set(options)
    for parameter in template["parameters"]:
        option = options[parameter["name"]]
        assert parameter["isOptional"] is not option.required
        assert parameter["helpText"] == option.help
        (pattern,) = parameter.get("regexes", [".*"])
        accepted = option.choices or (("true", "false") if option.nargs == 0 else ("1",))
        for value in accepted:
            assert re.fullmatch(pattern, value), parameter
        if option.choices or option.nargs == 0 or option.type is not None:
            assert not re.fullmatch(pattern, "0 or so"), parameter


def test_parameters_become_the_command_line() -> None:
    flags = ["--input=a*.jsonl,b.csv", "--id_column=pmid", "--overwrite=true", "--no_text=false", "--region=x"]
    line, beam_flags = command_line([*flags, "--runner=DataflowRunner"])
    assert line == ["--input", "a*.jsonl", "b.csv", "--id-column=pmid", "--overwrite"]
    assert beam_flags == ["--region=x", "--runner=DataflowRunner"]  # not short for --runner-config


def test_the_launcher_leaves_the_job_and_the_verb_publishes_it(
    tiny_bundle: Bundle, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = {"model": tiny_bundle.path, "input": tiny_corpus, "output": out, "chunk_records": 20}
    assert launch([*(f"--{name}={value}" for name, value in given.items()), "--runner=FnApiRunner"]) == 0
    written = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert len(written) == 3 and not (out / "_SUCCESS").exists()
    command = ["score", "--model", str(tiny_bundle.path), "--input", str(tiny_corpus), "--output", str(out)]
    assert main([*command, "--chunk-records", "20"]) == 0
    assert (out / "_SUCCESS").exists()
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")} == written
    assert launch(["--model=no\x1bwhere", f"--input={tiny_corpus}", f"--output={out}"]) == 2
    assert r"no\x1bwhere" in capsys.readouterr().err


def test_the_launcher_builds_the_job_that_the_service_asks_for(
    tiny_bundle: Bundle, tiny_corpus: Path, tmp_path: Path
) -> None:
    for name in ("temp", "staging"):
        (tmp_path / name).mkdir()
    flags = [f"--model={tiny_bundle.path}", f"--input={tiny_corpus}", f"--output={tmp_path / 'out'}"]
    flags += ["--runner=DataflowRunner", "--project=p", "--region=r", f"--temp_location={tmp_path / 'temp'}"]
    flags += [f"--staging_location={tmp_path / 'staging'}", "--sdk_container_image=image:tag", "--max_num_workers=7"]
    flags += ["--no_auth", "--dataflow_endpoint=http://localhost:9", f"--template_location={tmp_path / 'job.json'}"]
    assert launch(flags) == 0
    (pool,) = json.loads((tmp_path / "job.json").read_text(encoding="utf-8"))["environment"]["workerPools"]
    assert pool["workerHarnessContainerImage"] == "image:tag"
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 7
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_the_images_versions_are_those_of_the_constraints() -> None:
    text = (CONFIGS / "worker.Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.M))
    assert arguments["PYTHON_VERSION"] in PYTHONS
    assert arguments["BEAM_VERSION"] == pinned_versions(arguments["PYTHON_VERSION"])["apache-beam"]
    assert "python${PYTHON_VERSION}" in text and "python:${PYTHON_VERSION}" in text
    installs = [line for line in re.split(r"\n|&&|;", text) if "pip install" in line]
    assert len(installs) == 3
    for command in installs:
        assert "--require-hashes" in command or "--no-deps" in command, command
    assert "boto3" in pinned_versions(name="requirements.txt")  # workers read and write s3:// paths
    bases = re.findall(r"^FROM (\S+)", text, re.M)
    assert len(bases) == 3 and all(re.search(r":\$\{\w+_VERSION\}[\w-]*\$\{\w+_DIGEST\}$", base) for base in bases)
    assert re.findall(r"^USER (\S+)$", text, re.M) == ["${RUN_AS}"] and arguments["RUN_AS"] == "sepline"
    assert text.index("USER ") > text.rindex("RUN ")
    launcher = Path(re.findall(r"^ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/opt/sepline/(\S+)$", text, re.M)[0])
    assert (PROJECT / launcher).is_file()
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M):
        for name in source.split():
            assert (PROJECT / name).exists(), name
