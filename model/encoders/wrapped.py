"""A TF Hub text encoder run unchanged inside a Keras layer, which makes it trainable."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import keras

from model.errors import UserError
from model.graphs import check_graph


class WrappedEncoder(keras.layers.Layer):
    """Maps windows to hidden states as `BertEncoder` does: `[batch, tokens]` to `[batch, tokens, width]`.

    `hub.KerasLayer` is a layer of Keras 2; this one shares the module's own variables with Keras 3. The module computes
    in its own precision, whatever the policy, and needs the TensorFlow backend.
    """

    def __init__(self, folder: Path, width: int, *, trusted: bool = False, **kwargs: Any) -> None:
        """Makes a layer for the SavedModel in a folder, with hidden states of a width; `build` checks and loads it.

        Args:
            folder, width: of the module.
            trusted: True to load it whatever its graph does.
            kwargs: of any Keras layer.
        """
        super().__init__(dtype="float32", **kwargs)
        self.folder, self.width, self._trusted = folder, width, trusted

    def build(self, input_shape: Any = None) -> None:
        import tensorflow as tf

        if not self._trusted:
            check_graph(self.folder, hint="if you trust its source, set encoder.trusted=true")
        try:
            self._loaded = tf.saved_model.load(str(self.folder))
        except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{self.folder}: TensorFlow can't load this SavedModel ({reason})") from error
        self._takes_training = "training" in inspect.signature(self._loaded.__call__).parameters
        for name, variable in self.named_weights.items():
            *scopes, last = name.split("/")  # the path must show which variables are biases and norms
            with ExitStack() as stack:
                for scope in scopes:
                    stack.enter_context(keras.name_scope(scope))
                self._track_variable(keras.Variable(initializer=variable, dtype=variable.dtype.name, name=last))
        self.built = True

    @property
    def named_weights(self) -> dict[str, Any]:
        """The module's variables by their own names, such as `transformer/layer_0/output/kernel`."""
        within = f"{self.path}/"  # TensorFlow prefixes the scope in which they are loaded
        variables = getattr(self._loaded, "trainable_variables", ())
        if not variables:  # not exported for reuse: take those that the function reads
            function = self._loaded.__call__.concrete_functions[0]
            variables = sorted(function.trainable_variables, key=lambda variable: variable.name)
        return {variable.name.partition(":")[0].removeprefix(within): variable for variable in variables}

    def call(
        self,
        token_ids: Any,
        segment_ids: Any,
        padding_mask: Any,
        positions: Any = None,
        training: bool | None = None,
    ) -> Any:
        """Returns the module's `sequence_output`, `[batch, tokens, width]`; arguments as `BertEncoder.call`."""
        given = {"input_word_ids": token_ids, "input_mask": padding_mask, "input_type_ids": segment_ids}
        inputs = {name: keras.ops.cast(array, "int32") for name, array in given.items()}
        options = {"training": bool(training)} if self._takes_training else {}
        states = self._loaded(inputs, **options)["sequence_output"]
        return states if positions is None else keras.ops.take_along_axis(states, positions[:, :, None], axis=1)

    def compute_output_shape(self, token_ids_shape: Any, *_: Any) -> tuple[Any, ...]:
        return (*token_ids_shape, self.width)
