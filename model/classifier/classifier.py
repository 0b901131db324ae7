"""The sequential sentence classifier of Cohan et al. (EMNLP 2019, arXiv 1909.04054), its baseline and their variants.

An encoder gives a state for each sentence; additional features are concatenated; a head gives labels or scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from model.classifier.heads import CrfHead, LabelHead, ScoreHead
from model.classifier.sentence_states import SentenceAttention, cls_states, sep_states
from model.config import ModelSettings


class SentenceClassifier(keras.Model):
    """Turns windows into logits, one vector for each sentence.

    The inputs are those of `schema.classify_signature`. The encoder is injected: any layer that takes
    `(token_ids, segment_ids, padding_mask, training=)` and returns `[batch, tokens, width]`.

    Attributes:
        encoder: the injected layer.
        head: what turns states into labels or scores, see `model/classifier/heads.py`.
    """

    def __init__(
        self, encoder: keras.layers.Layer, num_labels: int | None, settings: ModelSettings | None = None, **kwargs: Any
    ) -> None:
        """Makes an unbuilt classifier over `num_labels` labels, or over scores if that is None."""
        super().__init__(**kwargs)
        settings = settings or ModelSettings()
        self.encoder = encoder
        self.dropout = keras.layers.Dropout(settings.dropout, name="dropout")
        self._sentence_states = sep_states if settings.head == "sep" else cls_states
        self.sentence_attention = None
        if settings.head == "cls":
            self.sentence_attention = SentenceAttention(settings.sentence_attention, name="sentence_attention")
        if num_labels is None:
            self.head: LabelHead | ScoreHead = ScoreHead(name="head")
        else:
            self.head = (CrfHead if settings.crf else LabelHead)(num_labels, name="head")

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """Returns logits, float32 `[batch, sentences, outputs]`; at padded sentences they have no meaning."""
        states = self._sentence_states(self.encoder, inputs, training=training)
        if self.sentence_attention is not None:
            states = self.sentence_attention(states, sentence_mask(inputs), training=training)
        states = self.dropout(states, training=training)
        if "features" in inputs:
            states = ops.concatenate([states, ops.cast(inputs["features"], states.dtype)], axis=-1)
        return self.head(states)

    @property
    def _default_save_signature(self) -> None:
        """None: Keras's own signature would take floats; the bundle has signatures of its own."""
        return

    def build_variables(self, features: int = 0) -> None:
        """Creates all variables, for `features` additional features."""
        inputs = {name: ops.zeros((1, 5), "int32") for name in ("token_ids", "segment_ids", "padding_mask")}
        inputs["sep_positions"] = ops.convert_to_tensor([[2, 4]], "int32")
        if features:
            inputs["features"] = ops.zeros((1, 2, features), "float32")
        self(inputs, training=False)

    def outputs(self, inputs: Mapping[str, Any], temperature: Any = 1.0) -> dict[str, Any]:
        """Returns the outputs of the bundle's `classify`: `probabilities` and `label_ids`, or `scores`."""
        return self.head.predict(self(inputs, training=False), sentence_mask(inputs), temperature)


def sentence_mask(inputs: Mapping[str, Any]) -> Any:
    """Returns bool `[batch, sentences]`, False for padding."""
    return inputs["sep_positions"] >= 0
