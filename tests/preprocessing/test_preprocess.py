"""Preprocessing on the real local runner, its folder read back."""

import dataclasses
import hashlib
import json
import shutil
import signal
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from apache_beam.options.pipeline_options import PipelineOptions
from conftest import tiny_documents
from support.warm_jobs import WarmJobs, stop_before

from model.bundles.training_data import open_training_data
from model.config import DataSettings
from model.errors import UserError
from model.inference.labelled_windows import read_windows
from model.schema import training_spec
from pipelines.cli import main
from pipelines.preprocessing.ingest import assign_split
from pipelines.preprocessing.transform import scratch_folder, scratch_place

MEDLINE = """<?xml version="1.0"?>
<PubmedArticleSet>{records}</PubmedArticleSet>
"""
RECORD = """<PubmedArticle><MedlineCitation><PMID>{pmid}</PMID><Article><Abstract>
<AbstractText Label="BACKGROUND" NlmCategory="BACKGROUND">Little is known. It remains so.</AbstractText>
<AbstractText Label="{heading}" NlmCategory="UNASSIGNED">We measured {pmid} patients.</AbstractText>
<AbstractText Label="CONCLUSIONS" NlmCategory="CONCLUSIONS">We suggest more.</AbstractText>
</Abstract></Article></MedlineCitation></PubmedArticle>"""


def preprocess(encoder: Path, source: Path, output: Path | str, *flags: str) -> int:
    settings = ["--set", f"encoder.handle={encoder}", "--set", "window.max_tokens=48", *flags]
    return main(["preprocess", "--input", str(source), "--output", str(output), *settings])


def test_sections_give_their_sentences_labels(tiny_encoder: Path, tmp_path: Path) -> None:
    source = tmp_path / "sample.xml"
    records = [RECORD.format(pmid=pmid, heading="PATIENTS AND METHODS") for pmid in range(40)]
    records += [RECORD.format(pmid=99, heading="ODDS AND ENDS")]
    source.write_text(MEDLINE.format(records="".join(records)), encoding="utf-8")
    assert preprocess(tiny_encoder, source, tmp_path / "out") == 0
    data = open_training_data(tmp_path / "out")
    assert data.stats["counts"]["records"] == 41
    assert data.stats["counts"]["rejects"] == {"unknown_label": 1}
    assert sum(data.stats["counts"]["documents"].values()) == 40
    for split in ("train", "dev", "test"):
        for file in data.document_files(split):
            for row in pq.read_table(file, partitioning=None).to_pylist():
                assert assign_split(row["doc_id"], data.settings.data) == split
                assert list(zip(row["sentences"], row["labels"], strict=True)) == [
                    ("Little is known.", "background"),
                    ("It remains so.", "background"),
                    (f"We measured {row['doc_id']} patients.", "methods"),
                    ("We suggest more.", "conclusions"),
                ]
    (reject,) = pq.read_table(tmp_path / "out" / "rejects").to_pylist()
    assert (reject["doc_id"], reject["record_index"]) == ("99", 40)
    assert "ODDS AND ENDS" in reject["message"]


def test_the_analysis_is_of_the_train_split_alone(tiny_records: Path) -> None:
    """Label order and length statistics, against a plain count over the train documents."""
    data = open_training_data(tiny_records)
    labels: Counter[str] = Counter()
    lengths = []
    for file in data.document_files("train"):
        for row in pq.read_table(file, partitioning=None).to_pylist():
            labels.update(row["labels"])
            lengths.append(len(row["labels"]))
    counts = [labels[label] for label in data.labels]
    assert counts == sorted(counts, reverse=True) and set(labels) == set(data.labels)
    assert data.stats["label_counts"]["train"] == dict(labels)
    assert data.stats["lengths"]["mean_sentences"] == pytest.approx(sum(lengths) / len(lengths), rel=1e-5)
    # The documents' wordpieces, which `test_statistics.py` counts by another tokenizer.
    counted = {int(length): count for length, count in data.stats["document_lengths"]["train"].items()}
    wordpieces = sorted(length for length, count in counted.items() for _ in range(count))
    assert data.stats["lengths"]["mean_tokens"] == pytest.approx(sum(wordpieces) / len(wordpieces), rel=1e-5)
    assert data.stats["lengths"]["max_tokens"] == wordpieces[-1]
    thirds = data.stats["lengths"]["length_quantiles"]
    assert len(thirds) == 2
    for quantile, place in zip(thirds, (len(wordpieces) / 3, len(wordpieces) * 2 / 3), strict=True):
        assert wordpieces[int(place) - 1] <= quantile <= wordpieces[int(place) + 1]
    assert list(data.bucket_boundaries) == [quantile for quantile in thirds if quantile <= 48]


def test_the_saved_graph_makes_the_ids_of_the_records(tiny_records: Path) -> None:
    data = open_training_data(tiny_records)
    graph = tft.TFTransformOutput(str(tiny_records / "transform")).transform_features_layer()
    (file, *_), (windows, *_) = data.document_files("train"), data.window_files("train")
    document = pq.read_table(file, partitioning=None).slice(0, 1).to_pylist()[0]
    made = graph(
        {"sentences": tf.ragged.constant([document["sentences"]]), "labels": tf.ragged.constant([document["labels"]])}
    )
    record = tf.io.parse_single_example(next(iter(tf.data.TFRecordDataset(windows))), training_spec())
    assert record["doc_id"].numpy().decode() == document["doc_id"]
    first, last = int(record["owned_start"]), int(record["owned_end"])
    seps = [0, *record["sep_positions"].numpy().tolist()]
    ids = record["token_ids"].numpy().tolist()
    shown = [ids[seps[index] + 1 : seps[index + 1]] for index in range(first, last)]
    start = int(record["first_sentence"]) + first
    assert shown == made["token_ids"].to_list()[0][start : start + len(shown)]
    labels = record["labels"].numpy()[first:last].tolist()
    assert labels == made["label_ids"].to_list()[0][start : start + len(shown)]


def test_readers_refuse_an_unfinished_folder(tiny_records: Path, tmp_path: Path) -> None:
    copy = tmp_path / "records"
    copy.mkdir()
    (copy / "stats.json").write_text((tiny_records / "stats.json").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(UserError, match="COMPLETED"):
        open_training_data(copy)


def test_a_second_run_reuses_and_other_settings_are_refused(
    tiny_command: list[str], tiny_records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(tiny_records, out)
    command = [*tiny_command, str(out)]
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == written
    assert main([*command, "--set", "window.context=0"]) == 2
    assert "window.context" in capsys.readouterr().err
    (out / "COMPLETED").unlink()  # as after a crash
    (out / "windows" / "train" / "part-stale.tfrecord").write_bytes(b"half")
    assert main(command) == 0
    assert {path for path in out.rglob("*") if path.is_file()} == set(written)


def test_a_failed_run_does_not_block_the_next(
    tiny_encoder: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert preprocess(tiny_encoder, tiny_corpus, out, "--set", "data.labels=[odd]") == 2
    assert "no document can train" in capsys.readouterr().err
    assert preprocess(tiny_encoder, tiny_corpus, out) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious", encoding="utf-8")
    assert preprocess(tiny_encoder, tiny_corpus, tmp_path / "mine", "--overwrite") == 2
    assert (tmp_path / "mine" / "thesis.txt").read_text(encoding="utf-8") == "precious"


def test_fixed_labels_keep_their_order_and_reject_the_rest(
    tiny_command: list[str], tiny_records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Into a finished folder that was made without them, which only `--overwrite` replaces."""
    out, documents = tmp_path / "records", {document["doc_id"]: document for document in tiny_documents()}
    shutil.copytree(tiny_records, out)
    kept = ["results", "background", "methods"]  # neither by frequency nor by name
    command = [*tiny_command, str(out), "--set", f"data.labels={kept}"]
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "data.labels" in message and "--overwrite" in message
    assert open_training_data(out) == dataclasses.replace(open_training_data(tiny_records), path=out)

    assert main([*command, "--overwrite"]) == 0
    data = open_training_data(out)
    assert list(data.labels) == kept
    assert data.stats["counts"]["rejects"] == {"unknown_label": 27}
    seen = set()
    for split in ("train", "dev", "test"):
        for window in read_windows(data, split):
            shown = documents[window.doc_id]["labels"][window.encoded.window.start : window.encoded.window.end]
            assert window.targets.tolist() == [kept.index(label) for label in shown]
            seen.add(window.doc_id)
    assert seen == {doc_id for doc_id, document in documents.items() if "conclusions" not in document["labels"]}
    rejects = pq.read_table(out / "rejects").to_pylist()
    assert {row["message"] for row in rejects} == {"'conclusions' is not among data.labels"}
    assert sorted(row["doc_id"] for row in rejects) == sorted(documents.keys() - seen)
    assert main(command) == 0  # what is finished now is the job of these labels


def test_a_budget_beyond_the_encoder_is_refused(
    tiny_encoder: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preprocess(tiny_encoder, tiny_corpus, tmp_path / "out", "--set", "window.max_tokens=4096") == 2
    assert "4096" in capsys.readouterr().err


def test_a_document_stays_in_its_split() -> None:
    """Whatever else is read with it, and whatever version reads it: what is held out is never trained on later."""
    splits: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for doc_id in map(str, range(20)):
        split = assign_split(doc_id, DataSettings())
        assert split is not None
        splits[split].append(doc_id)
        share = int(hashlib.sha256(f"split/{doc_id}".encode()).hexdigest()[:16], 16) / 2**64
        assert split == ("train" if share < 0.8 else "dev" if share < 0.9 else "test")
    assert (splits["dev"], splits["test"], len(splits["train"])) == (["2", "3", "12"], ["10"], 16)
    sampled = [doc_id for doc_id in map(str, range(20)) if assign_split(doc_id, DataSettings(sample=0.3)) is not None]
    assert sampled == ["3", "4", "5", "7", "10", "14", "15", "16"]
    assert assign_split("10", DataSettings(sample=0.3)) == "test"  # of its own share, not of the sample's


def test_splits_follow_the_shares() -> None:
    data = DataSettings(splits={"train": 0.5, "dev": 0.25, "test": 0.25}, sample=0.5)
    counts = Counter(assign_split(str(index), data) for index in range(20_000))
    assert counts[None] == pytest.approx(10_000, abs=300)
    assert counts["train"] == pytest.approx(5_000, abs=300)
    assert counts["dev"] == pytest.approx(2_500, abs=200)


def document(doc_id: str, *sentences: str) -> str:
    labels = ["methods"] * (len(sentences) - 1) + ["results"]
    return json.dumps({"doc_id": doc_id, "sentences": sentences, "labels": labels}) + "\n"


def test_given_splits_stay_and_duplicates_leave_train(
    tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = [document(str(number), "We measured.", f"It was found in group {number}.") for number in range(6)]
    train += [document("twin", "We used  it.", "Cells FOUND."), document("3", "We used the group.", "The end.")]
    held_out = [document("other", "we used it.", "cells found."), document("alone", "We used.", "It is.")]
    for name, lines in (("train", train), ("dev", held_out)):
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    out = tmp_path / "out"
    command = ["preprocess", "--train", str(tmp_path / "train.jsonl"), "--dev", str(tmp_path / "dev.jsonl")]
    command += ["--output", str(out), "--set", f"encoder.handle={tiny_encoder}", "--set", "window.max_tokens=48"]
    assert main(command) == 0
    assert "document ids that appear more than once: 1," in capsys.readouterr().out
    data = open_training_data(out)
    counts = data.stats["counts"]
    assert counts["documents"] == {"train": 7, "dev": 2}
    assert counts["sentences"] == {"train": 14, "dev": 4}
    assert (counts["records"], counts["duplicates_dropped"], counts["repeated_ids"]) == (10, 1, 1)
    assert data.stats["label_counts"]["train"] == {"methods": 7, "results": 7}
    ids = [row for file in data.document_files("train") for row in pq.read_table(file)["doc_id"].to_pylist()]
    assert sorted(ids) == ["0", "1", "2", "3", "3", "4", "5"]
    assert sum(data.window_lengths["train"].values()) == 7
    listed = pq.read_table(out / "duplicates.parquet").to_pylist()
    assert [(row["kind"], row["doc_id"], row["split"], row["dropped"]) for row in listed] == [
        ("same_id", "3", "train", False),
        ("same_id", "3", "train", False),
        ("same_text", "other", "dev", False),
        ("same_text", "twin", "train", True),
    ]


def test_a_label_that_train_lacks_is_a_clear_error(
    tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.jsonl").write_text(document("a", "We used.", "It is."), encoding="utf-8")
    strange = {"doc_id": "b", "sentences": ["We used it."], "labels": ["odd"]}
    (tmp_path / "dev.jsonl").write_text(json.dumps(strange) + "\n", encoding="utf-8")
    command = ["preprocess", "--train", str(tmp_path / "train.jsonl"), "--dev", str(tmp_path / "dev.jsonl")]
    command += ["--set", f"encoder.handle={tiny_encoder}", "--set", "window.max_tokens=48"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "odd" in message and "dev" in message and "data.labels" in message
    assert main([*command, "--output", str(tmp_path / "told"), "--set", "data.labels=[methods, results]"]) == 0
    counts = open_training_data(tmp_path / "told").stats["counts"]
    assert counts["documents"] == {"train": 1} and counts["rejects"] == {"unknown_label": 1}


def test_one_file_can_not_be_two_splits(
    tiny_encoder: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preprocess(tiny_encoder, tiny_corpus, tmp_path / "out", "--dev", str(tiny_corpus)) == 2
    assert "more than one split" in capsys.readouterr().err
    assert main(["preprocess", "--output", str(tmp_path / "out")]) == 2
    assert "--input" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--runner=PortableRunner", "--job_endpoint=embed"], "--temp_location"),
        (["--temp_location=s3://bucket/temp"], "TensorFlow can't write to s3://"),
        (["--runner=PortableRunner", "--job_endpoint=embed", "--temp_location=."], "give the absolute path"),
        (["--temp_location=/no/such/folder"], "there is no folder '/no/such/folder'"),
    ],
)
def test_a_remote_folder_needs_a_place_that_tensorflow_reaches(
    tiny_encoder: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert preprocess(tiny_encoder, tiny_corpus, "s3://bucket/records", "--", *flags) == 2
    assert said in capsys.readouterr().err


def test_the_scratch_folder_is_made_where_tensorflow_reaches_it_and_removed(tmp_path: Path) -> None:
    local = PipelineOptions(["--runner=FnApiRunner"])
    assert scratch_place(str(tmp_path), local) == str(tmp_path)
    assert scratch_place("s3://bucket/records", local) is None
    for runner in ("FnApiRunner", "FlinkRunner"):
        options = PipelineOptions([f"--runner={runner}", "--temp_location=ram://temp/"])
        place = scratch_place("s3://bucket/records", options)
        assert place == "ram://temp/"
        with scratch_folder(place) as scratch:
            tf.io.gfile.GFile(f"{scratch}/file", "w").write("x")
        assert not tf.io.gfile.exists(scratch)


@pytest.mark.parametrize(
    ("sent", "code", "what"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_ctrl_c_and_a_preempting_machine_stop_it_in_one_line(
    sent: signal.Signals,
    code: int,
    what: str,
    tiny_command: list[str],
    tiny_records: Path,
    tmp_path: Path,
    warm_jobs: WarmJobs,
) -> None:
    output = tmp_path / "records"
    command = [*tiny_command, str(output)]
    said = warm_jobs.errors.stat().st_size
    job = warm_jobs.start(command, before=stop_before("/documents/.*/part-", times=2))
    job.wait_until_stopped()
    assert len(list(output.glob("documents/*/part-*"))) == 1
    job.send(sent, signal.SIGCONT)
    assert job.wait() == code
    message = warm_jobs.errors.read_bytes()[said:].decode()
    assert message == f"sepline: {what}; repeat the command to start over\n"
    assert not (output / "COMPLETED").exists()
    assert warm_jobs.run(command) == 0
    made = [
        sorted((path.name, path.read_bytes()) for path in folder.rglob("part-*")) for folder in (output, tiny_records)
    ]
    assert made[0] == made[1] != []
