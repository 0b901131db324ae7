"""Held-out documents as models are judged on them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from conftest import tiny_documents

from model.bundles.training_data import open_training_data
from model.errors import DataError
from model.evaluation.held_out import read_held_out

TEST = ["004", "008", "015", "022", "025", "028", "030", "035", "037", "043", "045"]
"""Which of the tiny documents are held out, 0.2 of them by the hash of `split/ID`."""
FIRST_FOUR = ["022", "030", "037", "043"]
"""Of these, those whose ids have the lowest SHA-256."""


def test_the_same_documents_are_held_out_every_time(tiny_records: Path, tiny_corpus: Path) -> None:
    data = open_training_data(tiny_records)
    documents = {document["doc_id"]: document for document in tiny_documents()}
    held_out = read_held_out(data, "test", max_documents=5000)
    assert held_out.doc_ids == tuple(f"tiny-{number}" for number in TEST)
    assert held_out.sentences == tuple(tuple(documents[doc_id]["sentences"]) for doc_id in held_out.doc_ids)
    assert held_out.labels == tuple(tuple(documents[doc_id]["labels"]) for doc_id in held_out.doc_ids)
    assert set(held_out.sources) == {str(tiny_corpus)} and len(held_out.sources) == len(TEST)
    assert held_out.features == ((),) * len(TEST)
    counts = [len(sentences) for sentences in held_out.sentences]
    assert held_out.document_of_sentence().tolist() == [
        place for place, count in enumerate(counts) for _ in range(count)
    ]


def test_few_of_them_are_always_the_same_few(tiny_records: Path) -> None:
    few = read_held_out(open_training_data(tiny_records), "test", max_documents=4)
    assert few.doc_ids == tuple(f"tiny-{number}" for number in FIRST_FOUR)
    documents = {document["doc_id"]: document for document in tiny_documents()}
    assert few.labels == tuple(tuple(documents[doc_id]["labels"]) for doc_id in few.doc_ids)


def test_an_empty_split_is_an_error(tiny_records: Path, tmp_path: Path) -> None:
    nothing = dataclasses.replace(open_training_data(tiny_records), path=tmp_path)
    with pytest.raises(DataError, match="the test split is empty"):
        read_held_out(nothing, "test", max_documents=4)
