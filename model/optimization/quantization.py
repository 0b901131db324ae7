"""Quantizes a converted model to int8, and judges what that costs.

Matrix products take weights and activations as integers of 8 bits; the range of each is measured on windows of the
train split (Jacob et al., CVPR 2018, arXiv 1712.05877). NNCF does this, with smooth quantization (Xiao et al., ICML
2023, arXiv 2211.10438) and a correction of the biases.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from importlib.metadata import version
from io import StringIO
from typing import Any

from model.bundles.bundle import Bundle
from model.bundles.training_data import TrainingData
from model.errors import UserError
from model.evaluation.bootstrap import Interval, paired_bootstrap
from model.evaluation.held_out import (
    HeldOut,
    LabelPredictions,
    all_labels,
    check_target,
    measure_labels,
    read_held_out,
)
from model.extras import import_nncf
from model.inference.kinds import Outputs, Tokenize
from model.inference.openvino_predictor import processor_precisions
from model.inference.predictor import DEFAULT_BATCH_TOKENS, micro_batches, pad_batch
from model.optimization.conversion import rename
from model.records import EncodedWindow

PURPOSE = "a model in int8"
CALIBRATION_DOCUMENTS = 300
LARGEST_LOSS = 0.01
"""A model in int8 is refused if its accuracy may be lower by more than this."""


@dataclass(frozen=True)
class Quantization:
    """What a model is quantized and judged with.

    Attributes:
        calibration: the windows of some documents of the train split.
        documents: how many documents these are.
        held_out: the documents of the dev split.
        labels: the bundle's, and after them those that only the documents have.
    """

    calibration: Sequence[EncodedWindow]
    documents: int
    held_out: HeldOut
    labels: Sequence[str]

    @classmethod
    def prepare(cls, bundle: Bundle, data: TrainingData, held_out: HeldOut, tokenize: Tokenize) -> Quantization:
        """Checks that a bundle can be quantized here, with these records, and reads what that needs.

        The documents for calibration are those whose ids have the lowest hashes.

        Raises:
            UserError: nncf is missing, the processor can't run the result, the bundle predicts scores, or the records
                are not such that it could be judged.
        """
        import_nncf(PURPOSE)
        if "int8" not in processor_precisions():
            raise UserError(f"{PURPOSE} can't be judged here: this processor has no instructions for it (VNNI)")
        if not bundle.labels:
            raise UserError(f"{bundle.path}: predicts scores, and only models of labels are quantized to int8")
        check_target(bundle, data, held_out)
        train = read_held_out(data, "train", max_documents=CALIBRATION_DOCUMENTS, use="calibrate a model with")
        windows = train.windows(bundle, tokenize)
        return cls(windows, len(train.doc_ids), held_out, all_labels(bundle.labels, data.labels))

    def judge(self, before: Outputs, after: Outputs) -> dict[str, Any]:
        """Returns what quantization costs on dev, as JSON values for the bundle's description.

        Args:
            before: TensorFlow's outputs for the sentences of dev, in order.
            after: those of the model in int8.

        Raises:
            UserError: the accuracy may be lower by more than `LARGEST_LOSS`.
        """
        both = [
            measure_labels(self.held_out, LabelPredictions(one["label_ids"], one["probabilities"]), self.labels)
            for one in (before, after)
        ]
        comparison = paired_bootstrap(
            self.held_out.labelled(self.labels).targets,
            after["label_ids"],
            before["label_ids"],
            documents=self.held_out.document_of_sentence(),
        )
        change = comparison.accuracy
        if change.low < -LARGEST_LOSS:
            raise UserError(_refusal(change, both[0].accuracy, both[1].accuracy, comparison.documents))
        return {
            "nncf": version("nncf"),
            "calibration_documents": self.documents,
            "documents": comparison.documents,
            "accuracy": {"before": both[0].accuracy, "after": both[1].accuracy, **asdict(change)},
            "calibration_error": {"before": both[0].calibration_error, "after": both[1].calibration_error},
        }


def quantize(model: Any, calibration: Sequence[EncodedWindow], *, pad_id: int) -> Any:
    """Returns an `openvino.Model` in int8, the same for the same model and windows. The given one may be changed.

    Args:
        model: as `conversion.convert` returns it.
        calibration: the windows on which the ranges of activations are measured.
        pad_id: the vocabulary's `[PAD]`.

    Raises:
        UserError: nncf is missing, or can't quantize it.
    """
    nncf = import_nncf(PURPOSE)
    inputs = [port.get_any_name() for port in model.inputs]
    outputs = [port.get_any_name() for port in model.outputs]
    batches = []
    for members in micro_batches([len(window.token_ids) for window in calibration], DEFAULT_BATCH_TOKENS):
        arrays = pad_batch([calibration[index] for index in members], pad_id=pad_id)
        batches.append({name: arrays[name] for name in inputs})
    try:
        with _silenced():
            quantized = nncf.quantize(
                model,
                nncf.Dataset(batches),
                model_type=nncf.ModelType.TRANSFORMER,
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(batches),
            )
    except (RuntimeError, ValueError, nncf.InternalError, nncf.ValidationError) as error:
        raise UserError(f"the model can't be quantized to int8: {str(error).partition(chr(10))[0]}") from error
    rename(quantized, inputs, outputs)
    return quantized


def _refusal(change: Interval, before: float, after: float, documents: int) -> str:
    may = "may be lower" if change.high > -LARGEST_LOSS else "is lower"
    return (
        f"not written: in int8 the accuracy {may} by more than {100 * LARGEST_LOSS:.0f} point: {after:.4f} after "
        f"{before:.4f} on {documents} documents of dev, a difference of {100 * change.difference:+.2f} points (95 % "
        f"interval {100 * change.low:+.2f} to {100 * change.high:+.2f}); more documents make the interval narrower"
    )


@contextmanager
def _silenced() -> Iterator[None]:
    """Keeps nncf's progress bars and messages from being printed."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logger.setLevel(level)
