"""Training records whose dev split has other labels: what a model predicts there, or anything else."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from model.bundles.training_data import open_training_data


def relabel_dev(records: Path, folder: Path, labels: Iterable[str]) -> None:
    """Copies records, and gives the documents of dev these labels, one for each sentence in order."""
    shutil.copytree(records, folder)
    given = iter(labels)
    for file in open_training_data(folder).document_files("dev"):
        table = pq.read_table(file, partitioning=None)
        column = [[next(given) for _ in sentences] for sentences in table["sentences"].to_pylist()]
        place = table.schema.get_field_index("labels")
        pq.write_table(table.set_column(place, "labels", pa.array(column, table.schema.field(place).type)), file)
