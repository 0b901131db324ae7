"""Measures micro-batches of many shapes, and fits what a batch and a wordpiece cost.

    python benchmarks/micro_batches.py BUNDLE [--predictor tensorflow] [--precision f32] [--rounds 5]

The cost of a batch is fitted as `fixed + wordpieces * (each + width * attention)`. The fixed part in wordpieces, at the
middle width, is what `BATCH_COST` of model/inference/predictor.py should be; the best of the budgets, padded wordpieces
in a batch, is where seconds for each wordpiece stop falling. On a busy machine, only the processor seconds tell.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from model.bundles.bundle import Bundle, load_bundle
from model.inference.kinds import PredictorChoice
from model.inference.predictor import pad_batch
from model.records import EncodedWindow, Window

WIDTHS = (64, 128, 256, 384, 512)
BUDGETS = (256, 512, 1024, 2048, 4096, 8192, 16384)
_SENTENCE = 32
_LEAST = 2048  # wordpieces in a measurement


def batch_of(bundle: Bundle, rows: int, width: int) -> dict[str, np.ndarray]:
    """Returns the arrays of a batch of full windows of random wordpieces."""
    draw = np.random.default_rng(width)
    ends = np.arange(_SENTENCE - 1, width, _SENTENCE, dtype=np.int32)
    ids = draw.integers(len(bundle.vocabulary.pieces) // 2, len(bundle.vocabulary.pieces), (rows, width), np.int32)
    ids[:, 0], ids[:, ends] = bundle.vocabulary.cls_id, bundle.vocabulary.sep_id
    features = np.zeros((len(ends), len(bundle.features)), np.float32) if bundle.features else None
    shown = Window(0, 0, len(ends), 0, len(ends))
    truncated = np.zeros(len(ends), bool)
    windows = [EncodedWindow(shown, row, np.zeros_like(row), ends, truncated, features) for row in ids]
    return pad_batch(windows, pad_id=bundle.vocabulary.pad_id)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--predictor", default="tensorflow")
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    choice = PredictorChoice(options.predictor, options.precision)
    classify = choice.kind().load(bundle, choice.precision)
    widths = [width for width in WIDTHS if width <= bundle.window.max_tokens]
    cases = [(budget // width, width) for width in widths for budget in BUDGETS if budget >= width]
    batches = {case: batch_of(bundle, *case) for case in cases}
    for batch in batches.values():
        classify(batch)
    best = dict.fromkeys(cases, (np.inf, np.inf))
    for _ in range(options.rounds):
        for (rows, width), batch in batches.items():
            times = max(1, _LEAST // (rows * width))
            clocks = time.perf_counter(), time.process_time()
            for _ in range(times):
                classify(batch)
            spent = ((time.perf_counter() - clocks[0]) / times, (time.process_time() - clocks[1]) / times)
            found = best[rows, width]
            best[rows, width] = (min(found[0], spent[0]), min(found[1], spent[1]))
    print("| rows | width | ms | CPU ms | us a wordpiece | CPU us a wordpiece |\n|---|---|---|---|---|---|")
    for (rows, width), (wall, cpu) in best.items():
        per = 1e6 / (rows * width)
        print(f"| {rows} | {width} | {wall * 1e3:.1f} | {cpu * 1e3:.1f} | {wall * per:.1f} | {cpu * per:.1f} |")
    sizes = np.array(cases)
    tokens = sizes.prod(axis=1)
    terms = np.stack([np.ones(len(cases)), tokens, tokens * sizes[:, 1]], axis=1)
    middle = widths[len(widths) // 2]
    for place, name in enumerate(("seconds", "processor seconds")):
        measured = np.array([best[case][place] for case in cases])
        fixed, each, attention = np.linalg.lstsq(terms / measured[:, None], np.ones(len(cases)), rcond=None)[0]
        wordpieces = fixed / (each + middle * attention)
        print(f"{name}: {fixed * 1e3:.1f} ms a batch, which is that of {wordpieces:.0f} wordpieces at width {middle}")


if __name__ == "__main__":
    main()
