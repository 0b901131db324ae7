"""Turns labelled documents into windows with Hugging Face's datasets and a fast tokenizer.

    python benchmarks/hf_preprocess.py --encoder DIR --input FILE.jsonl --output FOLDER

Reads JSON lines with `doc_id`, `sentences` and `labels`, and maps them in batches, with a process for each core.
Windows are cut by sepline's own function.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import datasets
import numpy as np
from transformers import AutoTokenizer

from model.config import WindowSettings
from model.text.windowing import encode_windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    options = parser.parse_args()
    tokenizer, settings = AutoTokenizer.from_pretrained(options.encoder), WindowSettings()
    loaded = datasets.load_dataset("json", data_files=options.input, split="train", cache_dir=f"{options.output}/cache")
    names = sorted({label for labels in loaded["labels"] for label in labels})
    label_ids = {name: index for index, name in enumerate(names)}

    def make_windows(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        every = [sentence for sentences in batch["sentences"] for sentence in sentences]
        tokens = iter(tokenizer(every, add_special_tokens=False)["input_ids"])
        rows: dict[str, list[Any]] = {name: [] for name in ("doc_id", "input_ids", "sep_positions", "labels", "owned")}
        for doc_id, sentences, labels in zip(batch["doc_id"], batch["sentences"], batch["labels"], strict=True):
            ids = [np.array(next(tokens), np.int32) for _ in sentences]
            for encoded in encode_windows(ids, settings, cls_id=tokenizer.cls_token_id, sep_id=tokenizer.sep_token_id):
                window = encoded.window
                rows["doc_id"].append(doc_id)
                rows["input_ids"].append(encoded.token_ids)
                rows["sep_positions"].append(encoded.sep_positions)
                rows["labels"].append([label_ids[label] for label in labels[window.start : window.end]])
                rows["owned"].append([window.owned.start, window.owned.stop])
        return rows

    processes = len(os.sched_getaffinity(0))
    windows = loaded.map(make_windows, batched=True, remove_columns=loaded.column_names, num_proc=processes)
    windows.save_to_disk(f"{options.output}/windows")


if __name__ == "__main__":
    main()
