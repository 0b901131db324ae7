"""Checkpoints of a training run, from which a killed run resumes with the result of an unbroken one.

A checkpoint is a folder `checkpoints/NUMBER`: TensorFlow's files with the weights, the optimizer, dropout's random
states and the epoch's running figures, and `state.json` with everything else. It is written under another name, synced
and renamed, so it is there as a whole or not at all. Two are kept, and the weights of the best epoch that each of them
knows: if the newer one has been damaged, the run resumes from the older one.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from pydantic import TypeAdapter

from model.errors import JobFailure
from model.folders import make_folder, publish_folder, write_bytes

FOLDER = "checkpoints"
_KEPT = 2
_STATE = "state.json"
_PREFIX = "variables"
_NAME = "{:09d}"
_DISK_ERRORS = (
    tf.errors.DataLossError,
    tf.errors.FailedPreconditionError,
    tf.errors.NotFoundError,
    tf.errors.OutOfRangeError,
    tf.errors.PermissionDeniedError,
    tf.errors.ResourceExhaustedError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)
_DISK_BUSY = (tf.errors.ResourceExhaustedError, tf.errors.UnavailableError, MemoryError)


@dataclass(frozen=True)
class BestWeights:
    """The weights of the epoch that is best on dev.

    Attributes:
        epoch: from 1.
        sha256: of the file.
    """

    epoch: int
    sha256: str

    @property
    def file(self) -> str:
        """The name of the file in the run's folder."""
        return f"best-{self.epoch}.npz"


@dataclass(frozen=True)
class Progress:
    """How far a training has come.

    Attributes:
        epochs: finished epochs.
        steps: finished steps of the next one.
        history: the metrics of the finished epochs.
        best: the best of them; None before the first is finished.
    """

    epochs: int = 0
    steps: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: BestWeights | None = None


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, run: Path, variables: Sequence[tf.Variable], optimizer: Any) -> None:
        """Prepares to save and restore.

        Args:
            run: the folder of the run.
            variables: everything that changes in training but the optimizer, dropout's random states included.
            optimizer: of the classifier.
        """
        self._run, self._folder = run, run / FOLDER
        # Listed one by one: TensorFlow finds neither layers in lists nor seed generators.
        self._checkpoint = tf.train.Checkpoint(variables=list(variables), optimizer=optimizer)
        self._best: list[BestWeights | None] = [None] * _KEPT  # of the kept checkpoints

    def restore(self) -> Progress:
        """Restores the newest checkpoint that is whole, and returns how far it had come; nothing if there is none.

        Raises:
            JobFailure: the disk can't be read. The checkpoints are kept, since they may be whole.
        """
        for folder in reversed(self._all()):
            if (progress := self._read(folder)) is not None:
                self._checkpoint.read(str(folder / _PREFIX)).assert_consumed()
                self._best = [progress.best] * _KEPT
                return progress
            shutil.rmtree(folder)
            print(f"{folder}: is damaged; the training goes on from the one before it, or begins anew", flush=True)
        if (self._folder / "checkpoint").exists():
            print(f"{self._folder}: is from an earlier version of sepline; the training begins anew", flush=True)
            shutil.rmtree(self._folder)
        return Progress()

    def save(self, progress: Progress) -> None:
        """Saves a checkpoint, and removes what is not needed any more.

        Raises:
            JobFailure: it can't be written.
        """
        there = self._all()
        number = int(there[-1].name) + 1 if there else 1
        fresh = self._folder / ".writing"
        with reporting_disk_errors(self._folder):
            shutil.rmtree(fresh, ignore_errors=True)
            make_folder(fresh)
            self._checkpoint.write(str(fresh / _PREFIX))
            (fresh / _STATE).write_text(json.dumps(asdict(progress)), encoding="utf-8")
            publish_folder(fresh, self._folder / _NAME.format(number))
        for folder in there[: 1 - _KEPT]:
            shutil.rmtree(folder, ignore_errors=True)
        self._best = [*self._best, progress.best][-_KEPT:]
        self._remove_weights(self._best)

    def save_best(self, weights: Sequence[np.ndarray], epoch: int) -> BestWeights:
        """Saves the weights of the best epoch so far; the next checkpoint makes them count.

        They are hashed before they are written: HDF5, Keras's format, can lose a block without an error.

        Args:
            weights: of the classifier, in its order.
            epoch: from 1.

        Raises:
            JobFailure: they can't be written.
        """
        buffer = io.BytesIO()
        np.savez(buffer, *weights)
        best = BestWeights(epoch, hashlib.sha256(buffer.getbuffer()).hexdigest())
        file = self._run / best.file
        with reporting_disk_errors(file):
            write_bytes(file, buffer.getbuffer())
        return best

    def read_best(self, best: BestWeights) -> list[np.ndarray]:
        """Returns the weights of the best epoch, in the classifier's order.

        Raises:
            JobFailure: they can't be read, or are not those that were saved.
        """
        file = self._run / best.file
        with reporting_disk_errors(file):
            content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != best.sha256:
            raise JobFailure(f"{file}: is damaged; repeat the command to continue")
        with np.load(io.BytesIO(content)) as arrays:
            return [arrays[f"arr_{number}"] for number in range(len(arrays.files))]

    def _all(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("[0-9]*") if path.name.isdigit())

    def _read(self, folder: Path) -> Progress | None:
        """Returns the progress of a checkpoint; None if it, or the best weights that it counts on, are not whole."""
        hashes = {}
        for file in (*folder.iterdir(), *self._run.glob("best-*.npz")):
            with reporting_disk_errors(file):  # a disk that can't be read is no damage
                hashes[file.name] = _sha256(file)
        try:
            progress = TypeAdapter(Progress).validate_json((folder / _STATE).read_bytes())
            reader = tf.train.load_checkpoint(str(folder / _PREFIX))
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)  # compares its checksum
            best = progress.best
            return progress if best is None or hashes.get(best.file) == best.sha256 else None
        except _DISK_BUSY as error:
            raise JobFailure(f"{folder}: {str(error).splitlines()[0]}; repeat the command to continue") from error
        except Exception:  # whatever else the readers raise, it is not whole
            return None

    def _remove_weights(self, kept: Iterable[BestWeights | None]) -> None:
        """Removes the weights that none of the kept checkpoints counts on."""
        names = {best.file for best in kept if best}
        for file in self._run.glob("best-*.npz"):
            if file.name not in names:
                file.unlink(missing_ok=True)


@contextmanager
def reporting_disk_errors(place: Path) -> Iterator[None]:
    """Turns the errors of a disk into a failure in one line.

    Args:
        place: the file or folder that is read or written, for the message.

    Raises:
        JobFailure: Python or TensorFlow could not read or write.
    """
    try:
        yield
    except (OSError, *_DISK_ERRORS) as error:
        reason = getattr(error, "strerror", None) or str(getattr(error, "message", error)).strip().split("\n")[0]
        reason = reason.rpartition("}} ")[2]  # what TensorFlow calls the operation
        raise JobFailure(f"{place}: {reason}; repeat the command to continue") from error


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
