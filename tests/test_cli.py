"""The command line: fast help, one-line errors, exit codes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import TINY_TRAINING_OVERRIDES

from model.bundles.bundle import Bundle
from model.bundles.training_data import open_training_data
from model.evaluation.evaluate import predict
from model.inference.labelled_windows import read_windows
from model.inference.predictor import Predictor
from pipelines.cli import main
from pipelines.runners.failures import system_failure

KEPT = "what is finished is kept, repeat the command to continue"


def test_help_answers_at_once_because_nothing_heavy_is_imported() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "pipelines.cli", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "score" in result.stdout
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert not imported & {"tensorflow", "apache_beam", "keras", "pyarrow", "numpy", "pydantic", "rich"}


VERBS = ("inspect", "preprocess", "encoder", "train", "evaluate", "score", "optimize", "retrain", "models", "demo")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    assert f"sepline {verb}" in capsys.readouterr().out


def test_what_is_finished_is_told_as_json(
    tiny_bundle: Bundle, tiny_records: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both commands find their output there; what they print is a JSON object and nothing else."""
    data = open_training_data(tiny_records)
    settings = ["--set", f"encoder.handle={data.settings.encoder.handle}", "--set", "window.max_tokens=48"]
    settings += ["--set", "window.context=1", "--set", "data.part_records=25", "--set", "data.buckets=3"]
    settings += ["--set", "data.splits={train: 0.6, dev: 0.2, test: 0.2}"]
    command = ["preprocess", "--input", str(tiny_corpus), "--output", str(tiny_records), *settings, "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == data.stats
    flags = [flag for setting in TINY_TRAINING_OVERRIDES for flag in ("--set", setting)]
    assert main(["train", "--data", str(tiny_records), "--output", str(tiny_bundle.path.parent), *flags, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["bundle"], said["fingerprint"]) == (str(tiny_bundle.path), tiny_bundle.fingerprint)


def _fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("sepline: ")
    return captured.err


def test_a_wrong_path_is_one_line(tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["score", "--model", str(tiny_bundle.path), "--input", "nowhere.csv", "--output", str(tmp_path / "out")]
    assert "nowhere.csv" in _fails(command, capsys)
    assert not (tmp_path / "out").exists()


def test_what_the_system_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "versions" / "000001").mkdir(parents=True)
    (tmp_path / ".lock").mkdir()  # where a file is written
    assert main(["models", "promote", str(tmp_path), "1"]) == 1
    said = capsys.readouterr().err
    assert said == f"sepline: {tmp_path / '.lock'}: Is a directory; {KEPT}\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Traceback:\n  x\nOSError: [Errno 28] No space left on device: '/d/f' [while running 'Map']", "'/d/f'"),
        ("x.so: cannot open shared object file: Too many open files", "x.so: cannot open shared object file: Too"),
        ("{{node Write}} /d/f; Input/output error [Op:Write]\nmore", "/d/f; Input/output error"),
        ("{{node {{node Write}}}} /d/f; Input/output error", "/d/f; Input/output error"),
        ("tensorflow.errors.ResourceExhaustedError: /d/f; No space left on device [while running 'Map']", "/d/f; No"),
    ],
)
def test_a_reason_that_libraries_pass_on_as_text_is_found(text: str, reason: str) -> None:
    said = system_failure(RuntimeError(text))
    assert said is not None and reason in said
    assert not any(text in said for text in ("\n", "while running", "{{"))
    assert system_failure(RuntimeError("a mistake in the program")) is None


def test_an_empty_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = _fails(["train", "--data", str(tmp_path), "--output", str(tmp_path / "run")], capsys)
    assert "sepline preprocess" in message
    assert str(tmp_path) in message


def test_a_folder_that_is_no_bundle_is_one_line(
    tiny_records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = _fails(["evaluate", "--model", str(tmp_path), "--data", str(tiny_records)], capsys)
    assert "not a bundle" in message and str(tmp_path) in message


def test_documents_without_labels_are_one_line(
    tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"doc_id": "a", "text": "We did it."}\n', encoding="utf-8")
    settings = ["--set", f"encoder.handle={tiny_encoder}", "--set", "window.max_tokens=48"]
    message = _fails(["preprocess", "--input", str(corpus), "--output", str(tmp_path / "out"), *settings], capsys)
    assert "1 records read" in message and "unlabelled 1" in message


def test_a_misspelt_setting_names_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--data", "x", "--output", str(tmp_path / "run"), "--set", "training.epoch=3"]
    message = _fails(command, capsys)
    assert "training.epoch" in message and "epochs" in message


def test_beam_options_are_checked(tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"doc_id": "a", "text": "We did it."}\n', encoding="utf-8")
    command = ["score", "--model", str(tiny_bundle.path), "--input", str(source), "--output", str(tmp_path / "out")]
    assert "--direct_num_worker" in _fails([*command, "--", "--direct_num_worker=2"], capsys)
    config = tmp_path / "runner.yaml"
    config.write_text("runner: FnApiRunner\nmachine_tipe: n1\n", encoding="utf-8")
    message = _fails([*command, "--runner-config", str(config)], capsys)
    assert "machine_tipe" in message and str(config) in message


def test_beam_flags_are_refused_where_no_beam_job_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no Beam job" in _fails(["train", "--data", "x", "--output", "y", "--", "--runner=X"], capsys)


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--data", "x", "--output", "s3://bucket/run"],
        ["evaluate", "--data", "x", "--model", "s3://bucket/bundle"],
        ["score", "--input", "x", "--output", "y", "--model", "s3://bucket/bundle"],
        ["demo", "--output", "s3://bucket/demo"],
    ],
)
def test_what_has_to_be_local_is_named(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{command[-2]} {command[-1]}: takes a local or shared folder" in _fails(command, capsys)


def test_evaluate_prints_json_with_baselines(
    tiny_bundle: Bundle, tiny_records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--model", str(tiny_bundle.path), "--data", str(tiny_records), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert set(results) == {"sepline", "position", "tfidf"}
    sentences, outputs = predict(Predictor.load(tiny_bundle), read_windows(open_training_data(tiny_records), "test"))
    assert results["sepline"]["accuracy"] == pytest.approx(np.mean(outputs["label_ids"] == sentences.targets))
    for metrics in results.values():
        assert sum(sum(row) for row in metrics["confusion"]) == metrics["sentences"]
        assert metrics["sentences"] == results["sepline"]["sentences"] > 0


def test_evaluate_counts_labels_that_the_model_does_not_know_as_wrong(
    tiny_bundle: Bundle, tiny_records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def renamed(*names: tuple[str, str]) -> Path:
        """Returns a copy of the records in which labels have other names."""
        folder = tmp_path / "-".join(new for _, new in names)
        shutil.copytree(tiny_records, folder)
        for file in (folder / "stats.json", *folder.glob("documents/*/*.parquet")):
            if file.suffix == ".parquet":
                table = pq.read_table(file, partitioning=None)
                labels = [[dict(names).get(label, label) for label in labels] for labels in table["labels"].to_pylist()]
                at = table.schema.get_field_index("labels")
                pq.write_table(table.set_column(at, table.schema.field(at), [labels]), file)
            else:
                text = file.read_text(encoding="utf-8")
                for old, new in names:
                    text = text.replace(f'"{old}"', f'"{new}"')
                file.write_text(text, encoding="utf-8")
        return folder

    command = ["evaluate", "--json", "--model", str(tiny_bundle.path), "--data"]
    assert main([*command, str(tiny_records)]) == 0
    known = json.loads(capsys.readouterr().out)["sepline"]
    assert main([*command, str(renamed(("background", "setting")))]) == 0
    captured = capsys.readouterr()
    results = json.loads(captured.out)
    support = known["labels"]["background"]["support"]
    assert captured.err == (
        f"sepline: labels that the model does not know, counted as wrong: setting ({support} sentences)\n"
    )
    place = list(known["labels"]).index("background")
    right = sum(known["confusion"][label][label] for label in range(4) if label != place)
    assert results["sepline"]["accuracy"] == pytest.approx(right / known["sentences"])
    assert list(results["sepline"]["labels"]) == [*known["labels"], "setting"]
    assert results["tfidf"]["labels"]["setting"]["support"] == support

    foreign = renamed(*((label, f"{label}s") for label in known["labels"]))
    message = _fails([*command, str(foreign)], capsys)
    assert "has none of the labels" in message and "conclusionss" in message and "--label-map" in message


def test_the_tables_hold_the_figures_of_the_training(
    tiny_bundle: Bundle, tiny_records: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["evaluate", "--model", str(tiny_bundle.path), "--data", str(tiny_records), "--split", "dev"]) == 0
    printed = capsys.readouterr().out
    for word in ("TF-IDF", "position", "background", "methods", "results", "conclusions", "dev split"):
        assert word in printed
    dev = tiny_bundle.description["dev"]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]
    wanted = [
        ["sepline", *(f"{dev[name]:.4f}" for name in ("accuracy", "macro_f1", "weighted_f1", "calibration_error"))]
    ]
    for (label, figures), counts in zip(dev["labels"].items(), dev["confusion"], strict=True):
        shares = [f"{figures[name]:.4f}" for name in ("precision", "recall", "f1")]
        wanted += [[label, *shares, str(figures["support"])], [label, *map(str, counts)]]
    assert [row for row in wanted if row not in rows] == []
