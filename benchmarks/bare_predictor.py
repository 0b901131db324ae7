"""Prints the processor seconds that a predictor alone takes for the windows of a file of abstracts.

python benchmarks/bare_predictor.py BUNDLE FILE.jsonl tensorflow-f32
"""

from __future__ import annotations

import json
import sys
import time
from itertools import islice

from model.bundles.bundle import load_bundle
from model.inference.document_windows import encode_documents
from model.inference.kinds import PredictorChoice
from model.inference.predictor import Predictor
from pipelines.corpora.sentences import SentenceSplitter

_CHUNK = 500


def main() -> None:
    path, file, wanted = sys.argv[1:]
    name, _, precision = wanted.partition("-")
    choice = PredictorChoice(name, precision)
    bundle, splitter = load_bundle(path), SentenceSplitter()
    predictor, tokenize = Predictor.load(bundle, choice), choice.kind().open_tokenizer(bundle)
    with open(file, encoding="utf-8") as stream:
        documents = iter([(splitter.split(json.loads(line)["text"]), ()) for line in stream])
    seconds = 0.0
    while chunk := list(islice(documents, _CHUNK)):
        windows = [window for windows in encode_documents(chunk, bundle, tokenize) for window in windows]
        started = time.process_time()
        predictor.run(windows)
        seconds += time.process_time() - started
    print(json.dumps({"cpu_seconds": seconds}))


if __name__ == "__main__":
    main()
