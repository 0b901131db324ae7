"""`examples/serving/client.py` against a small server with the REST interface of TensorFlow Serving.

The server is not TensorFlow Serving: it does what that one documents with a request, and with several when it batches
them, and runs the bundle's signatures.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from conftest import PROJECT

from model.bundles.bundle import Bundle
from model.inference.document_windows import encode_documents
from model.inference.owned import take_owned
from model.inference.predictor import Predictor
from model.text.tokenization import Tokenizer

CLIENT = PROJECT / "examples" / "serving" / "client.py"
DOCUMENTS = [
    ["Little is known of cells.", "We measured the patients.", "The increase was significant."],
    ["We conclude that it should."],
    ["We used a drug .\nIt was the drug.", "", "Größe α: the effect was found."],
    [f"We found the increase in group {number} ." for number in range(30)],
]


@pytest.fixture(scope="module")
def client() -> Any:
    spec = spec_from_file_location("client", CLIENT)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def loaded(tiny_bundle: Bundle) -> Any:
    return tf.saved_model.load(str(tiny_bundle.path))


def answers(loaded: Any, bodies: Sequence[bytes]) -> list[bytes]:
    """Returns the answers to requests of one signature that a server has put into one batch, as JSON."""
    requests = [json.loads(body) for body in bodies]
    (name,) = {request.get("signature_name", "serving_default") for request in requests}
    signature = loaded.signatures[name]
    (given,) = signature.structured_input_signature[1]
    tensors = [tf.constant(request["instances"], tf.string) for request in requests]
    outputs = signature(**{given: tf.concat(tensors, axis=0)})  # fails if their other dimensions differ
    labels = [[label.decode() for label in row] for row in outputs["labels"].numpy()]
    rows = [
        {"labels": names, "probabilities": shares}
        for names, shares in zip(labels, outputs["probabilities"].numpy().tolist(), strict=True)
    ]
    ends = np.cumsum([len(tensor) for tensor in tensors]).tolist()
    return [
        json.dumps({"predictions": rows[end - len(tensor) : end]}).encode()
        for tensor, end in zip(tensors, ends, strict=True)
    ]


def check(found: list[list[tuple[str, float]]], documents: list[list[str]], bundle: Bundle) -> None:
    """Compares predictions with those of the scoring job's own path."""
    predictor, tokenizer = Predictor.load(bundle), Tokenizer(bundle.vocabulary)
    assert [len(rows) for rows in found] == [len(document) for document in documents]
    for rows, windows in zip(found, encode_documents([(d, ()) for d in documents], bundle, tokenizer.ids), strict=True):
        outputs = take_owned([window.window for window in windows], predictor.run(windows))
        assert [label for label, _ in rows] == [bundle.labels[label] for label in outputs["label_ids"]]
        np.testing.assert_allclose([share for _, share in rows], outputs["probabilities"].max(axis=1), atol=1e-5)


@pytest.mark.parametrize("body", ["request_body", "padded_body"])
def test_a_request_gets_what_the_scoring_job_gives(client: Any, loaded: Any, tiny_bundle: Bundle, body: str) -> None:
    (answer,) = answers(loaded, [json.dumps(getattr(client, body)(DOCUMENTS)).encode()])
    check(client.read_answer(json.loads(answer), DOCUMENTS), DOCUMENTS, tiny_bundle)


def test_requests_of_different_lengths_make_one_batch(client: Any, loaded: Any, tiny_bundle: Bundle) -> None:
    requests = [DOCUMENTS[:1], DOCUMENTS[1:3], DOCUMENTS[3:]]
    bodies = [json.dumps(client.request_body(documents)).encode() for documents in requests]
    for answer, documents in zip(answers(loaded, bodies), requests, strict=True):
        check(client.read_answer(json.loads(answer), documents), documents, tiny_bundle)
    with pytest.raises(tf.errors.InvalidArgumentError):  # why there is a signature of lines
        answers(loaded, [json.dumps(client.padded_body(documents)).encode() for documents in requests])


@pytest.mark.parametrize(("documents", "width"), [([], 0), ([""], 1), (["", "It is.\n"], 2)])
def test_lines_without_sentences(loaded: Any, documents: list[str], width: int) -> None:
    outputs = loaded.signatures["serving_lines"](documents=tf.constant(documents, tf.string))
    assert outputs["labels"].shape == (len(documents), width)
    assert (outputs["labels"].numpy() != b"").sum() == documents.count("It is.\n")


@pytest.fixture
def address(loaded: Any) -> Iterator[str]:
    """Serves the bundle as `medline`, and returns the server's address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/models/medline:predict"
            (answer,) = answers(loaded, [self.rfile.read(int(self.headers["Content-Length"]))])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_client_over_http(client: Any, address: str, tiny_bundle: Bundle) -> None:
    model = f"{address}/v1/models/medline"
    check(client.predict(model, DOCUMENTS), DOCUMENTS, tiny_bundle)
    command = [sys.executable, str(CLIENT), model, *DOCUMENTS[0]]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [label for label, _ in client.predict(model, DOCUMENTS[:1])[0]]


def test_the_documented_requests_and_their_answers(client: Any, loaded: Any, tiny_bundle: Bundle) -> None:
    page = (PROJECT / "docs" / "serving.md").read_text(encoding="utf-8")
    lines, padded, said = re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    documents = [text.split("\n") for text in json.loads(lines)["instances"]]
    assert [json.loads(lines), json.loads(padded)] == [client.request_body(documents), client.padded_body(documents)]
    for body in (lines, padded):
        (answer,) = answers(loaded, [body.encode()])
        check(client.read_answer(json.loads(answer), documents), documents, tiny_bundle)
        for found, shown in zip(json.loads(answer)["predictions"], json.loads(said)["predictions"], strict=True):
            assert np.shape(found["probabilities"]) == np.shape(shown["probabilities"])
            assert [label == "" for label in found["labels"]] == [label == "" for label in shown["labels"]]
