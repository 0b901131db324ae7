"""Public corpora read whole. Their folder is named by SEPLINE_DATA; without it these tests are skipped."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

from conftest import PROJECT, real_data

from model.records import Document, Reject
from pipelines.corpora.labels import LabelMap
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sentences import SentenceSplitter
from pipelines.corpora.sources import match_sources, read_source


def data(name: str) -> str:
    """Returns the path of a corpus, or skips the test where it is absent."""
    return str(real_data(name))


def read(path: str, options: ReadOptions | None = None) -> tuple[list[Document], list[Reject]]:
    items = list(read_source(path, options or ReadOptions()))
    assert [item.record_index for item in items] == list(range(len(items)))
    documents = [item for item in items if isinstance(item, Document)]
    return documents, [item for item in items if isinstance(item, Reject)]


def label_map(name: str) -> LabelMap:
    return LabelMap.load(str(PROJECT / "docs" / "label_maps" / f"{name}.yaml"))


def count_labels(documents: list[Document]) -> dict[str, int]:
    return dict(Counter(label for document in documents for label in document.labels or ()))


def test_pubmed_20k() -> None:
    documents, rejects = read(data("pubmed_20k_rct/dev.txt"), ReadOptions(label_map=label_map("pubmed_rct")))
    assert (len(documents), rejects) == (2500, [])
    assert documents[0].doc_id == "24290286"
    assert count_labels(documents) == {
        "background": 3449,
        "objective": 2376,
        "methods": 9964,
        "results": 9841,
        "conclusions": 4582,
    }


def test_csabstruct() -> None:
    documents, rejects = read(data("csabstruct/train.jsonl"), ReadOptions(label_map=label_map("csabstruct")))
    assert (len(documents), rejects) == (1668, [])
    assert all(len(document.confidences or ()) == len(document.sentences) for document in documents)
    assert set(count_labels(documents)) == {"background", "objective", "methods", "results", "other"}


def test_nicta() -> None:
    documents, rejects = read(data("nicta_piboso/dev_clean.txt"), ReadOptions(label_map=label_map("nicta_piboso")))
    assert (len(documents), rejects) == (80, [])
    assert set(count_labels(documents)) == {"background", "methods", "results", "other"}


def test_csv() -> None:
    options = ReadOptions(id_column="record_id", text_column="abstract")
    documents, rejects = read(data("asreview/ADHD.csv"), options)
    assert (len(documents), Counter(reject.reason for reject in rejects)) == (781, {"no_text": 70})


def test_medline() -> None:
    counts: Counter[str] = Counter()
    for source in match_sources([data("pubmed_xml") + "/net_synergy/*.xml.gz", data("pubmed_xml") + "/records/*.xml"]):
        documents, rejects = read(source.path)
        counts.update(reject.reason for reject in rejects)
        counts.update("document" for _ in documents)
        counts.update("structured" for document in documents if len(document.sections) > 1)
    assert counts == {"document": 278, "no_text": 62, "structured": 43}


def test_sentences_are_split_where_annotators_split_them() -> None:
    """Boundary F1 over abstracts whose sentences are known, joined by single spaces."""
    documents, _ = read(data("csabstruct/dev.jsonl"))
    splitter = SentenceSplitter()
    right = found = wanted = 0
    for document in documents:
        sentences = [sentence.strip() for sentence in document.sentences]
        ends = {end + index for index, end in enumerate(accumulate(map(len, sentences[:-1])))}
        split = {end for _, end in splitter.spans(" ".join(sentences))[:-1]}
        right, found, wanted = right + len(ends & split), found + len(split), wanted + len(ends)
    assert 2 * right / (found + wanted) > 0.985
