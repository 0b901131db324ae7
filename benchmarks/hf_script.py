"""The script that a careful user of Hugging Face's transformers would write to score a file of abstracts.

    python benchmarks/hf_script.py --checkpoint DIR --input FILE.jsonl --output FILE.parquet [--dtype bfloat16]

Reads JSON lines with `doc_id` and `text`, splits the text into sentences, tokenizes all of them with the fast
tokenizer, and runs the windows, sorted by length, in batches under a budget of padded tokens. `--one-at-a-time` runs
one window after another, as the code of Cohan et al. (EMNLP 2019) does. Sentences and windows are cut by sepline's own
functions, so that labels can be compared. `benchmarks/peer_exports.py` makes the checkpoint from a bundle.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertModel

from model.config import WindowSettings
from model.records import EncodedWindow
from model.text.windowing import encode_windows
from pipelines.corpora.sentences import SentenceSplitter

BATCH_TOKENS = 8192


class Classifier(torch.nn.Module):
    """BERT, and a linear layer on the states of the `[SEP]`s."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        description = json.loads((checkpoint / "classifier.json").read_text(encoding="utf-8"))
        self.labels: list[str] = description["labels"]
        self.temperature: float = description["temperature"]
        self.window = WindowSettings(**description["window"])
        self.bert = BertModel.from_pretrained(checkpoint, add_pooling_layer=False)
        self.linear = torch.nn.Linear(self.bert.config.hidden_size, len(self.labels))
        self.linear.load_state_dict(load_file(checkpoint / "classifier.safetensors"))

    def forward(self, token_ids: torch.Tensor, padding_mask: torch.Tensor, seps: torch.Tensor) -> torch.Tensor:
        """Returns the probabilities, float32 `[sentences of all windows, labels]`; `seps` are rows and columns."""
        states = self.bert(input_ids=token_ids, attention_mask=padding_mask).last_hidden_state
        logits = self.linear(states[seps[0], seps[1]]).float()
        return torch.softmax(logits / self.temperature, dim=-1)


def batches(windows: Sequence[EncodedWindow], most_tokens: int) -> Iterator[list[int]]:
    """Yields the indices of the windows of each batch, longest first."""
    order = sorted(range(len(windows)), key=lambda index: -len(windows[index].token_ids))
    while order:
        count = max(1, most_tokens // len(windows[order[0]].token_ids))
        yield order[:count]
        order = order[count:]


def run_batch(model: Classifier, windows: Sequence[EncodedWindow]) -> list[np.ndarray]:
    """Returns the probabilities of each window, `[sentences, labels]`."""
    width = max(len(window.token_ids) for window in windows)
    token_ids = np.zeros((len(windows), width), np.int64)
    padding_mask = np.zeros((len(windows), width), np.int64)
    for row, window in enumerate(windows):
        token_ids[row, : len(window.token_ids)] = window.token_ids
        padding_mask[row, : len(window.token_ids)] = 1
    counts = [len(window.sep_positions) for window in windows]
    rows = np.repeat(np.arange(len(windows)), counts)
    seps = np.stack([rows, np.concatenate([window.sep_positions for window in windows])])
    found = model(torch.from_numpy(token_ids), torch.from_numpy(padding_mask), torch.from_numpy(seps)).numpy()
    return np.split(found, np.cumsum(counts)[:-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--one-at-a-time", action="store_true")
    options = parser.parse_args()

    model = Classifier(options.checkpoint).to(getattr(torch, options.dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
    splitter = SentenceSplitter()
    ids: list[str] = []
    sentences: list[list[str]] = []
    with open(options.input, encoding="utf-8") as stream:
        for line in stream:
            record = json.loads(line)
            ids.append(record["doc_id"])
            sentences.append(splitter.split(record["text"]))
    flat = tokenizer([sentence for document in sentences for sentence in document], add_special_tokens=False)
    tokens = iter(flat["input_ids"])
    windows: list[EncodedWindow] = []
    for document in sentences:
        of_document = [np.array(next(tokens), np.int32) for _ in document]
        cls_id, sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
        windows += encode_windows(of_document, model.window, cls_id=cls_id, sep_id=sep_id)

    results: list[np.ndarray] = [np.zeros(0)] * len(windows)
    with torch.inference_mode():
        for members in batches(windows, 1 if options.one_at_a_time else BATCH_TOKENS):
            for index, found in zip(members, run_batch(model, [windows[index] for index in members]), strict=True):
                results[index] = found

    probabilities = np.concatenate(
        [result[window.window.owned] for window, result in zip(windows, results, strict=True)]
    )
    chosen = probabilities.argmax(-1)
    lengths = [len(document) for document in sentences]
    table = pa.table(
        {
            "doc_id": np.repeat(np.array(ids, object), lengths),
            "sentence_index": pa.array([index for length in lengths for index in range(length)], pa.int32()),
            "sentence": [sentence for document in sentences for sentence in document],
            "label": pa.DictionaryArray.from_arrays(pa.array(chosen, pa.int16()), model.labels),
            "probability": probabilities[np.arange(len(chosen)), chosen],
            "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(probabilities.ravel()), len(model.labels)),
        }
    )
    pq.write_table(table, options.output, compression="zstd")


if __name__ == "__main__":
    main()
