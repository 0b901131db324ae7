"""The signatures of a bundle's SavedModel.

- `tokenize`: string `[sentences]` -> `token_ids` int32 `[tokens]` and `row_lengths` int64 `[sentences]`;
- `classify`: a padded batch of windows (`schema.classify_signature`) -> `probabilities` `[batch, sentences, labels]`
  and `label_ids` int32 `[batch, sentences]`;
- `serving_default`: string `sentences` `[documents, sentences]`, with empty strings at the end of shorter documents ->
  `probabilities` `[documents, sentences, labels]` and `labels` `[documents, sentences]`. Documents over the budget are
  cut into windows in the graph, exactly as by `windowing.plan_windows`;
- `serving_lines`: string `documents` `[documents]`, a sentence a line -> the same, as wide as the longest document.
  Requests of any length can be concatenated, as TensorFlow Serving does when it batches; not for models of features.

A model of scores returns `scores` instead, `[batch, sentences]` or `[documents, sentences]`. A model with additional
features also takes `features`, float32 `[documents, sentences, features]`; the graph standardizes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from model.classifier.classifier import SentenceClassifier
from model.config import WindowSettings
from model.schema import classify_signature
from model.text.tokenization import Tokenizer


class ServingModule(tf.Module):
    """Holds classifier and tokenizer together for export."""

    def __init__(
        self,
        classifier: SentenceClassifier,
        tokenizer: Tokenizer,
        *,
        labels: Sequence[str],
        window: WindowSettings,
        features: Sequence[tuple[float, float]] = (),
        temperature: float = 1.0,
    ) -> None:
        """Makes a module that can be exported.

        Args:
            classifier, tokenizer: the model, and the tokenizer of its encoder.
            labels: in the order of the model's outputs; none for scores.
            window: how documents are cut.
            features: mean and standard deviation of each additional feature.
            temperature: logits are divided by it before they become probabilities.
        """
        super().__init__(name="sepline")
        self._classifier = classifier
        self._tokenizer = tokenizer
        self._labels = tf.constant(list(labels), tf.string)
        self._window = window
        self._features = tuple(features)
        self._temperature = temperature

    def export(self, folder: Path) -> None:
        """Writes the SavedModel into an existing folder."""
        width = len(self._features)
        strings = tf.TensorSpec([None], tf.string, name="sentences")
        documents = {"sentences": tf.TensorSpec([None, None], tf.string, name="sentences")}
        if width:
            documents["features"] = tf.TensorSpec([None, None, width], tf.float32, name="features")
        serve = tf.function(self.serve).get_concrete_function(**documents)
        signatures = {
            "tokenize": tf.function(self.tokenize).get_concrete_function(strings),
            "classify": tf.function(self.classify).get_concrete_function(**classify_signature(width)),
            "serving_default": serve,
        }
        if not width:
            signatures["serving_lines"] = _serve_lines(serve)
        tf.saved_model.save(self, str(folder), signatures=signatures)

    def tokenize(self, sentences: tf.Tensor) -> dict[str, tf.Tensor]:
        tokens = self._tokenizer.tokenize(sentences)
        return {"token_ids": tokens.flat_values, "row_lengths": tokens.row_lengths()}

    def classify(self, **windows: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs: dict[str, tf.Tensor] = self._classifier.outputs(windows, self._temperature)
        return outputs

    def serve(self, sentences: tf.Tensor, features: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        documents, width = tf.shape(sentences)[0], tf.shape(sentences)[1]
        tokens = self._tokenizer.tokenize(tf.reshape(sentences, [-1]))
        tokens = tokens[:, : self._window.max_tokens - 2]
        lengths = tf.reshape(tf.cast(tokens.row_lengths(), tf.int32), [documents, width])
        present = tf.cast(tf.not_equal(sentences, ""), tf.int32)
        counts = tf.reduce_max(tf.pad(present * (tf.range(width) + 1), [[0, 0], [1, 0]]), axis=1)  # up to the last one

        windows = tf.map_fn(
            lambda row: _plan_windows(row[0][: row[1]], self._window),
            (lengths, counts),
            fn_output_signature=tf.RaggedTensorSpec([None, 4], tf.int32, ragged_rank=0),
        )
        document = tf.cast(windows.value_rowids(), tf.int32)
        plans = tf.reshape(windows.values, [-1, 4])  # of shape [0] where there are no documents
        start, end, owned_start, owned_end = tf.unstack(plans, axis=1)

        outputs = self._read_windows(tokens, features, document * width + start, document * width + end)
        owned = tf.ragged.range(owned_start, owned_end)
        window_of = tf.cast(owned.value_rowids(), tf.int32)
        sources = tf.stack([window_of, owned.values - tf.gather(start, window_of)], axis=1)
        targets = tf.stack([tf.gather(document, window_of), owned.values], axis=1)

        def place(output: tf.Tensor) -> tf.Tensor:
            shape = tf.concat([[documents, width], tf.shape(output)[2:]], axis=0)
            return tf.scatter_nd(targets, tf.gather_nd(output, sources), shape)

        placed = {name: place(output) for name, output in outputs.items()}
        if "label_ids" in placed:
            names = tf.gather(self._labels, placed.pop("label_ids"))
            placed["labels"] = tf.where(tf.sequence_mask(counts, width), names, "")
        return placed

    def _read_windows(
        self, tokens: tf.RaggedTensor, features: tf.Tensor | None, start: tf.Tensor, end: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Returns the outputs `[windows, sentences, ...]` for runs of neighbouring rows of `tokens`."""
        vocabulary = self._tokenizer.vocabulary
        shown = tf.ragged.range(start, end)
        window_tokens = tf.gather(tokens, shown)  # [windows, (sentences), (tokens)]
        seps = tf.RaggedTensor.from_uniform_row_length(tf.fill([tf.size(shown.values)], vocabulary.sep_id), 1)
        with_seps = window_tokens.with_values(tf.concat([window_tokens.values, seps], axis=1))
        clss = tf.fill([tf.size(start), 1], vocabulary.cls_id)
        token_ids = tf.concat([clss, with_seps.merge_dims(1, 2)], axis=1)
        sentence_ends = tf.cast(with_seps.values.row_lengths(), tf.int32)
        per_window = shown.with_values(sentence_ends).to_tensor(0)
        sep_positions = tf.where(
            tf.sequence_mask(shown.row_lengths()), tf.cumsum(per_window, axis=1), tf.constant(-1, tf.int32)
        )
        padding_mask = tf.ones_like(token_ids)
        segment_ids = tf.zeros_like(token_ids)
        if self._window.segment_ids == "alternating":
            number = shown.values - tf.gather(start, shown.value_rowids())
            by_token = with_seps.with_values(
                with_seps.values.with_values(tf.gather(number % 2, with_seps.values.value_rowids()))
            )
            segment_ids = tf.concat([tf.zeros_like(clss), by_token.merge_dims(1, 2)], axis=1)
        inputs = {
            "token_ids": token_ids.to_tensor(vocabulary.pad_id),
            "segment_ids": segment_ids.to_tensor(0),
            "padding_mask": padding_mask.to_tensor(0),
            "sep_positions": sep_positions,
        }
        if features is not None:
            mean, deviation = (tf.constant(column, tf.float64) for column in zip(*self._features, strict=True))
            table = tf.cast(tf.reshape(features, [-1, len(self._features)]), tf.float64)
            standardized = tf.cast(tf.math.divide_no_nan(table - mean, deviation), tf.float32)
            inputs["features"] = tf.gather(standardized, shown).to_tensor(0.0)
        return self.classify(**inputs)


def _serve_lines(serve: Any) -> Any:
    """Returns the signature `serving_lines`, made of `serving_default`, so that the encoder's graph is there once."""
    lines = tf.TensorSpec([None], tf.string, name="documents")
    split = tf.function(lambda documents: serve(sentences=tf.strings.split(documents, "\n").to_tensor("")))
    return split.get_concrete_function(lines)


def _plan_windows(lengths: tf.Tensor, settings: WindowSettings) -> tf.Tensor:
    """Returns int32 `[windows, 4]` (start, end, owned start, owned end): `windowing.plan_windows` in the graph."""
    capacity = settings.max_tokens - 1
    ends = tf.concat([[0], tf.cumsum(lengths + 1)], axis=0)
    bounds = _cut(ends, capacity, settings.context)
    low, high = tf.reduce_max(tf.concat([[0], lengths + 1], axis=0)), tf.constant(capacity)
    high = tf.where(tf.size(bounds) <= 2, low, high)  # a single window needs no balancing

    def halve(low: Any, high: Any, bounds: Any) -> Any:
        middle = (low + high) // 2
        candidate = _cut(ends, middle, settings.context)
        fits = tf.size(candidate) <= tf.size(bounds)
        return tf.cond(fits, lambda: (low, middle, candidate), lambda: (middle + 1, high, bounds))

    _, _, bounds = tf.while_loop(
        lambda low, high, _: low < high,
        halve,
        (low, high, bounds),
        shape_invariants=(low.shape, high.shape, tf.TensorShape([None])),
    )
    owned_start, owned_end = bounds[:-1], bounds[1:]
    start, end = owned_start, owned_end
    for _ in range(settings.context):
        before = tf.maximum(start - 1, 0)
        start = tf.where(tf.gather(ends, end) - tf.gather(ends, before) <= capacity, before, start)
        after = tf.minimum(end + 1, tf.size(lengths))
        end = tf.where(tf.gather(ends, after) - tf.gather(ends, start) <= capacity, after, end)
    return tf.stack([start, end, owned_start, owned_end], axis=1)


def _cut(ends: tf.Tensor, capacity: tf.Tensor | int, context: int) -> tf.Tensor:
    """Returns the bounds of the fewest owned ranges: `windowing._cut` in the graph."""
    count = tf.size(ends) - 1

    def extend(bounds: Any) -> Any:
        start = bounds[-1]
        limit = tf.gather(ends, tf.maximum(start - context, 0)) + capacity
        last_shown = tf.searchsorted(ends, limit[None], side="right")[0] - 1
        end = tf.where(last_shown >= count, count, last_shown - context)
        return (tf.concat([bounds, [tf.maximum(end, start + 1)]], axis=0),)

    (bounds,) = tf.while_loop(
        lambda bounds: bounds[-1] < count,
        extend,
        (tf.zeros([1], tf.int32),),
        shape_invariants=(tf.TensorShape([None]),),
    )
    return bounds
