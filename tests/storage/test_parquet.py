"""Part files: the same table is the same bytes, and rejects have their schema."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from model.records import Reason, Reject
from pipelines.storage.parquet import parquet_bytes, read_table, write_rejects, write_table


def test_a_part_is_zstd_and_its_bytes_depend_on_its_content(tmp_path: Path) -> None:
    table = pa.table({"number": list(range(1000)), "text": ["the same"] * 1000})
    content = parquet_bytes(table)
    assert content == parquet_bytes(pa.concat_tables([table.slice(0, 400), table.slice(400)]).combine_chunks())
    assert content != parquet_bytes(table.slice(1))
    path = str(tmp_path / "deep" / "part-a.parquet")
    write_table(path, table)
    assert Path(path).read_bytes() == content
    assert read_table(path).equals(table)
    row_group = pq.read_metadata(path).row_group(0)
    assert [row_group.column(index).compression for index in range(2)] == ["ZSTD", "ZSTD"]


def test_the_compression_level_is_fixed() -> None:
    """Levels differ in the bytes, and so would parts that an earlier version has begun."""
    table = pa.table({"text": [f"{number * 7919 % 1000} of {number % 13}" for number in range(5000)]})
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", compression_level=3)
    assert parquet_bytes(table) == buffer.getvalue().to_pybytes()


def test_rejects(tmp_path: Path) -> None:
    path = str(tmp_path / "rejects.parquet")
    write_rejects(path, [], {"key": "value"})
    assert not Path(path).exists()
    rejects = [
        Reject("a.csv", 3, Reason.NO_TEXT, "no text", "id-3", "beginning"),
        Reject("b.csv", 0, Reason.BROKEN_SOURCE, "broke off"),
    ]
    write_rejects(path, rejects, {"key": "value"})
    table = read_table(path)
    assert table.to_pylist() == [
        {
            "source": "a.csv",
            "record_index": 3,
            "doc_id": "id-3",
            "reason": "no_text",
            "message": "no text",
            "excerpt": "beginning",
        },
        {
            "source": "b.csv",
            "record_index": 0,
            "doc_id": None,
            "reason": "broken_source",
            "message": "broke off",
            "excerpt": "",
        },
    ]
    assert table.schema.metadata == {b"key": b"value"}
    assert table.schema.field("reason").type == pa.dictionary(pa.int8(), pa.string())
