"""Fine-tunes the same model in PyTorch, and prints the wordpieces per second of its last epoch.

    python benchmarks/torch_training.py --encoder DIR --windows FILE.npz [--epochs 2]

The recipe is that of `sepline train`: AdamW without decay on biases and norms, gradients clipped to norm 1, dropout
0.1, batches of windows of like lengths in random order, at most 8,192 padded tokens each. `benchmarks/peer_exports.py`
writes the windows.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from transformers import BertModel

BATCH_TOKENS = 8192
LEARNING_RATE = 2e-4


def like_lengths(lengths: np.ndarray) -> list[np.ndarray]:
    """Returns the windows of each batch."""
    order = np.argsort(-lengths, kind="stable")
    batches = []
    while len(order):
        count = max(1, BATCH_TOKENS // int(lengths[order[0]]))
        batches.append(order[:count])
        order = order[count:]
    return batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--windows", required=True)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(1)
    draw = np.random.default_rng(1)

    arrays = np.load(options.windows)
    ends = {name: np.cumsum(arrays[name]) for name in ("tokens", "sentences")}
    token_ids = np.split(arrays["token_ids"], ends["tokens"][:-1])
    seps = np.split(arrays["sep_positions"], ends["sentences"][:-1])
    labels = np.split(arrays["labels"], ends["sentences"][:-1])

    bert = BertModel.from_pretrained(options.encoder, add_pooling_layer=False).train()
    head = torch.nn.Sequential(
        torch.nn.Dropout(0.1), torch.nn.Linear(bert.config.hidden_size, int(arrays["labels"].max()) + 1)
    )
    named = [*bert.named_parameters(), *head.named_parameters()]
    spared = [value for name, value in named if name.endswith("bias") or "LayerNorm" in name]
    decayed = [value for name, value in named if not (name.endswith("bias") or "LayerNorm" in name)]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE)

    seconds, padded = 0.0, 0
    batches = like_lengths(arrays["tokens"])
    for _ in range(options.epochs):
        started, padded = time.perf_counter(), 0
        for number in draw.permutation(len(batches)):
            members = batches[number]
            width = max(len(token_ids[index]) for index in members)
            padded += width * len(members)
            ids = torch.zeros(len(members), width, dtype=torch.int64)
            mask = torch.zeros_like(ids)
            for row, index in enumerate(members):
                ids[row, : len(token_ids[index])] = torch.from_numpy(token_ids[index])
                mask[row, : len(token_ids[index])] = 1
            rows = torch.from_numpy(np.repeat(np.arange(len(members)), [len(seps[index]) for index in members]))
            columns = torch.from_numpy(np.concatenate([seps[index] for index in members]))
            targets = torch.from_numpy(np.concatenate([labels[index] for index in members]))
            states = bert(input_ids=ids, attention_mask=mask).last_hidden_state
            loss = torch.nn.functional.cross_entropy(head(states[rows, columns]), targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([value for _, value in named], 1.0)
            optimizer.step()
        seconds = time.perf_counter() - started
    tokens = int(arrays["tokens"].sum())
    print(json.dumps({"tokens_per_second": tokens / seconds, "padded": padded / tokens, "tokens": tokens}))


if __name__ == "__main__":
    main()
