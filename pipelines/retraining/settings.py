"""The settings of scheduled retraining: those of preprocessing and training, and the sections below.

`runner_configs/retrain.yaml` shows every key with a comment.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from model.config import DataSettings, Section, Settings, load_settings_as
from pipelines.corpora.formats import Quoting, SourceFormat

Share = Annotated[float, Field(ge=0, le=1)]


class RetrainSection(Section):
    """What is retrained, from which data, and where the results are.

    Attributes:
        name: the model's name in the registry.
        registry: the registry's folder; the model is `REGISTRY/NAME`.
        workspace: folder for the runs, their data and the lock; each model has its own.
        input: files and globs of the labelled pool. New files extend it from one run to the next.
        start: `champion` to start from the champion's weights, `fresh` to start from the pretrained encoder.
        held_out: the split that models are judged on.
        keep_runs: how many finished runs keep their data and checkpoints; their records stay.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    registry: str
    workspace: str
    input: tuple[str, ...] = Field(min_length=1)
    start: Literal["champion", "fresh"] = "champion"
    held_out: Literal["dev", "test"] = "test"
    keep_runs: int = Field(default=3, ge=1)


class ReadingSection(Section):
    """How the input is read, like the flags of `sepline preprocess`.

    Attributes:
        format: of all files; by default detected from name and content.
        id_column, text_column, sentences_column, labels_column: columns of tables, keys of JSON lines.
        quoting: of CSV and TSV, `csv` or `none`; by default `csv` for CSV and `none` for TSV.
        label_map: a YAML file that renames labels and section headings.
    """

    format: SourceFormat | None = None
    id_column: str = "doc_id"
    text_column: str = "text"
    sentences_column: str = "sentences"
    labels_column: str = "labels"
    quoting: Quoting | None = None
    label_map: str | None = None


class ChecksSection(Section):
    """What the data must satisfy before a model is trained on them.

    Drift is the Jensen-Shannon distance (base 2, from 0 for equal to 1) between the train split of this run and that of
    the champion's run. A check whose limit is null is skipped; so is one that compares when there is no champion.

    Attributes:
        min_new_documents: labelled documents from files that the champion's run has not read; with fewer the run ends
            with "nothing new".
        min_train_documents, min_held_out_documents: documents of the two splits.
        same_labels: True to fail if a label is new or missing compared with the champion's.
        max_broken_sources: files that can't be read to their end.
        max_damaged_share: records that are broken, of the wrong type, length or encoding, or without an id.
        max_reject_rise: how much any one reason's share of rejected records may exceed that of the champion's run.
        max_duplicate_share: train documents that are dropped because they are held out too.
        max_unknown_share: wordpieces that are `[UNK]`.
        max_label_drift: of the labels' shares.
        max_length_drift: of the documents' lengths in wordpieces.
        max_sentences_drift: of the documents' lengths in sentences.
        max_vocabulary_drift: of what the champion's frequent, rare and unseen wordpieces cover.
    """

    min_new_documents: int = Field(default=1, ge=0)
    min_train_documents: int = Field(default=100, ge=1)
    min_held_out_documents: int = Field(default=30, ge=1)
    same_labels: bool = True
    max_broken_sources: int | None = Field(default=0, ge=0)
    max_damaged_share: Share | None = 0.01
    max_reject_rise: Share | None = 0.1
    max_duplicate_share: Share | None = 0.1
    max_unknown_share: Share | None = 0.02
    max_label_drift: Share | None = 0.1
    max_length_drift: Share | None = 0.15
    max_sentences_drift: Share | None = 0.15
    max_vocabulary_drift: Share | None = 0.1


class GatesSection(Section):
    """How good a new model must be before it is published.

    A gate whose limit is null is skipped; so is one that compares when there is no champion.

    Attributes:
        min_accuracy: share of the held-out sentences with the right label.
        min_label_f1: F1 of every label; a number for all, or one by label.
        margin: how far the new model's accuracy may be below the champion's. The lower end of the confidence interval
            of the difference must be within it.
        margin_macro_f1: the same for macro F1, whose interval is wider.
        confidence: of that interval.
        samples: number of bootstrap samples.
        max_champion_fall: how far the champion's own accuracy may have fallen since it was published. Wrong labels show
            up here.
        max_documents: held-out documents that models are judged on, chosen by a hash of their id.
        slice_pattern: a regular expression that is searched for in a document's source; what its first group matches
            names the slice. By default there are no slices.
        max_slice_drop: how far the accuracy on any slice may be below the champion's.
        min_slice_documents: slices with fewer documents are skipped.
        max_calibration_error: expected calibration error, the mean distance between confidence and accuracy.
        max_size_mb: of the bundle's files, in 10^6 bytes.
        min_speed: sentences per second, on the machine of the run.
        min_relative_speed: sentences per second as a multiple of the champion's, both measured in turn.
    """

    min_accuracy: Share | None = 0.6
    min_label_f1: Share | dict[str, Share] | None = 0.2
    margin: Share | None = 0.01
    margin_macro_f1: Share | None = 0.03
    confidence: float = Field(default=0.95, gt=0, lt=1)
    samples: int = Field(default=2000, ge=100)
    max_champion_fall: Share | None = 0.05
    max_documents: int = Field(default=5000, ge=1)
    slice_pattern: str | None = None
    max_slice_drop: Share | None = 0.05
    min_slice_documents: int = Field(default=50, ge=1)
    max_calibration_error: Share | None = 0.1
    max_size_mb: float | None = Field(default=None, gt=0)
    min_speed: float | None = Field(default=None, gt=0)
    min_relative_speed: float | None = Field(default=0.5, gt=0)

    @field_validator("slice_pattern")
    @classmethod
    def _pattern_is_one(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern


class LockSection(Section):
    """The lock that lets only one run at a time use a workspace.

    Attributes:
        expiry_minutes: how long it is valid without being refreshed; a run refreshes it four times in that time.
        take_over_stale: True to take over an expired lock, or one whose process on the same machine is gone.
        holder: a name of which only one run is ever alive, such as that of a Kubernetes job; a run takes a lock of its
            own name for that of its dead predecessor, unless it sees that process live.
    """

    expiry_minutes: float = Field(default=60, gt=0)
    take_over_stale: bool = False
    holder: str = ""


class HooksSection(Section):
    """Shell commands to run when a call has ended; `pipelines/retraining/hooks.py` describes their environment.

    Attributes:
        published, kept, nothing_new, invalid_data, locked, error: one for each outcome.
    """

    published: str | None = None
    kept: str | None = None
    nothing_new: str | None = None
    invalid_data: str | None = None
    locked: str | None = None
    error: str | None = None


class RetrainSettings(Settings):
    """All sections of a settings file for `sepline retrain`.

    Attributes:
        retrain, reading, checks, gates, lock, hooks: see their classes.
    """

    retrain: RetrainSection
    reading: ReadingSection = ReadingSection()
    checks: ChecksSection = ChecksSection()
    gates: GatesSection = GatesSection()
    lock: LockSection = LockSection()
    hooks: HooksSection = HooksSection()

    @field_validator("data")
    @classmethod
    def _labels_are_learned(cls, data: DataSettings) -> DataSettings:
        if data.target != "labels":
            raise ValueError("models are compared by their labels; leave data.target out")
        return data

    def deciding(self) -> dict[str, Any]:
        """Returns the settings that a run's result depends on, as JSON values."""
        tree = self.model_dump(mode="json", exclude={"lock": True, "hooks": True, "encoder": {"trusted"}})
        for key in ("registry", "workspace", "input", "keep_runs"):  # the inputs count by their content
            del tree["retrain"][key]
        return tree

    def for_training(self) -> Settings:
        """Returns the sections for preprocessing and training."""
        names = set(Settings.model_fields)
        return Settings.model_validate(self.model_dump(include=names, exclude_unset=True))


def load_retrain_settings(path: str | None, overrides: Sequence[str]) -> RetrainSettings:
    """Returns the settings of a YAML file, with `SECTION.KEY=VALUE` overrides applied on top.

    Raises:
        UserError: the file is missing or not a YAML mapping, or a key or value is not allowed.
    """
    return load_settings_as(RetrainSettings, path, overrides)
