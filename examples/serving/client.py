"""Asks TensorFlow Serving for the labels of abstracts; needs nothing but Python.

python examples/serving/client.py http://localhost:8501/v1/models/medline "We tested a drug." "It helped."
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Sequence
from typing import Any

Prediction = tuple[str, float]
"""A label and its probability."""


def request_body(documents: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Returns the body of a `:predict` request for documents, each of them a list of sentences."""
    return {
        "signature_name": "serving_lines",
        "instances": ["\n".join(sentence.replace("\n", " ") for sentence in document) for document in documents],
    }


def padded_body(documents: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Returns the same for the signature `serving_default`: empty strings fill up the shorter documents."""
    longest = max(map(len, documents))
    return {"instances": [[*document, *[""] * (longest - len(document))] for document in documents]}


def read_answer(answer: dict[str, Any], documents: Sequence[Sequence[str]]) -> list[list[Prediction]]:
    """Returns a prediction for each sentence of each document, without the padding behind them.

    For a model with a CRF, take the labels alone: a label is not always the one with the highest probability.
    """
    found = []
    for row, document in zip(answer["predictions"], documents, strict=True):
        highest = map(max, row["probabilities"])
        found.append(list(zip(row["labels"], highest, strict=True))[: len(document)])
    return found


def predict(model: str, documents: Sequence[Sequence[str]]) -> list[list[Prediction]]:
    """Sends documents to a server.

    Args:
        model: its address, such as `http://localhost:8501/v1/models/medline`.
        documents: at least one, each of them a list of sentences.
    """
    body = json.dumps(request_body(documents)).encode()
    request = urllib.request.Request(f"{model}:predict", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return read_answer(json.load(response), documents)


if __name__ == "__main__":
    for one, (label, probability) in zip(sys.argv[2:], predict(sys.argv[1], [sys.argv[2:]])[0], strict=True):
        print(f"{label:12} {probability:.2f} {one!r}")
