"""Beam options from files and flags: what is shipped is right, and what is wrong is named."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PROJECT

from model.errors import UserError
from pipelines.runners.options import beam_options, check_paths

LAUNCHER = f"--job_server_java_launcher={sys.executable}"
"""A program that exists, in place of Java, which options are only checked to find."""

CONFIGS = sorted((PROJECT / "runner_configs").glob("*.yaml"))


def given(config: Path | None, *flags: str) -> dict[str, object]:
    options: dict[str, object] = beam_options(str(config) if config else None, flags).get_all_options(drop_default=True)
    return options


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "runner.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_without_a_file_it_is_the_local_runner_and_no_main_session_is_pickled() -> None:
    assert given(None) == {"runner": "FnApiRunner", "save_main_session": False}


@pytest.mark.parametrize("config", [path for path in CONFIGS if path.stem in ("direct", "flink", "spark")])
def test_shipped_configurations_hold(config: Path) -> None:
    options = given(config, LAUNCHER)
    assert options["save_main_session"] is False
    expected = {"direct": "FnApiRunner", "flink": "FlinkRunner", "spark": "SparkRunner"}
    assert options["runner"] == expected[config.stem]


def test_flags_go_over_the_file_and_repeated_options_add_up(write: Callable[[str], Path]) -> None:
    config = write(
        "runner: FnApiRunner\nnum_workers: 3\nexperiments: [a, b]\nstreaming: false\nuse_public_ips: false\n"
    )
    options = given(config, "--num_workers=5", "--experiments=c")
    assert options["num_workers"] == 5
    assert options["experiments"] == ["a", "b", "c"]
    assert options["use_public_ips"] is False and "streaming" not in options


def test_a_mapping_is_json(write: Callable[[str], Path]) -> None:
    config = write("environment_type: PROCESS\nenvironment_config: {command: /opt/boot}\n")
    assert given(config)["environment_config"] == '{"command": "/opt/boot"}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("machine_tipe: n1\n", r"runner\.yaml: machine_tipe: .* did you mean --machine_type\?"),
        ("job-name: x\n", r"job-name: .* did you mean --job_name\?"),
        ("runner: FlinkRuner\n", r"did you mean FlinkRunner\?"),
        ("num_workers: [1, 2]\n", "num_workers: takes one value"),
        ("num_workers: many\n", "runner.yaml: .*num_workers.*invalid int value"),
        ("num_workers:\n", "num_workers: has no value"),
        ("streaming: 1\n", "streaming: is a switch; write true or false"),
        ("streaming: 'false'\n", "streaming: is a switch"),
        ("autoscaling_algorithm: off\n", "autoscaling_algorithm: takes a value, not false"),
        ("labels: {team: x}\n", "labels: takes one value, not a mapping"),
        ("experiments: [{a: b}]\n", "experiments: .* is not a single value"),
        ("setup_file: nowhere.py\n", "setup_file: there is no file 'nowhere.py'"),
        ("environment_type: EXTERNAL\n", "external_service_address is required"),
        ("runner: DataflowRunner\nproject: p\n", "region is missing, temp_location is missing"),
        ("- runner\n", "give a mapping"),
        ("runner: [\n", "can't be read as YAML"),
        ("max_bundle_size: 3\n", "no option --max_bundle_size"),  # Flink's alone
        ("runner: FlinkRunner\nflink_version: 1.2\n", r"invalid choice: '1\.2'"),
        ("no_wait_until_finish: true\n", "return before the job is done"),
        ("dry_run: 'True'\n", "return before the job is done"),
    ],
)
def test_mistakes_in_a_file_are_named(write: Callable[[str], Path], text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        beam_options(str(write(text)), [])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_worker=2"], r"after --: .* did you mean --num_workers\?"),
        (["--num_workers=x"], "after --: .*invalid int"),
        (["--num_workers"], "after --: .*expected one argument"),
        (["stray"], "'stray' belongs to no option"),
        (["-x"], "'-x' belongs to no option"),
        (["--streaming=true"], "after --: .*streaming"),
        (["--runner=Nope"], "no runner 'Nope'"),
        (["--template_location=gs://b/t"], "return before the job is done"),
    ],
)
def test_mistakes_after_the_dashes_are_named(flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        beam_options(None, flags)


def test_runner_names_are_taken_in_short() -> None:
    assert given(None, "--runner=flink", "--job_endpoint=localhost:1", "--max_bundle_size=7")["runner"] == "flink"


def test_java_is_looked_for_before_anything_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs Java"):
        beam_options(str(PROJECT / "runner_configs" / "flink.yaml"), [])
    assert beam_options(str(PROJECT / "runner_configs" / "flink.yaml"), ["--job_endpoint=localhost:1"])


@pytest.mark.parametrize(
    ("flags", "here"),
    [
        ([], True),
        (["--runner=FlinkRunner"], True),  # a Flink of its own: its worker is this process
        (["--runner=SparkRunner", "--spark_master_url=local[2]"], True),
        (["--runner=PrismRunner"], True),
        (["--runner=FlinkRunner", "--flink_master=jobmanager:8081", "--environment_type=LOOPBACK"], True),
        (["--runner=FlinkRunner", "--flink_master=jobmanager:8081"], False),
        (["--runner=FlinkRunner", "--environment_type=EXTERNAL", "--environment_config=localhost:1"], False),
        (["--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/t"], False),
    ],
)
def test_relative_paths_are_for_workers_that_share_this_folder(flags: list[str], here: bool, tmp_path: Path) -> None:
    options = beam_options(None, [LAUNCHER, *flags])
    check_paths(options, [str(tmp_path), "gs://bucket/in"])
    if here:
        check_paths(options, ["in.jsonl"])
    else:
        with pytest.raises(UserError, match=r"^in\.jsonl: .*give the absolute path"):
            check_paths(options, [str(tmp_path), "in.jsonl"])
