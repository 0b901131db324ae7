"""Finding files, opening compressed ones, and reading whole files."""

from __future__ import annotations

import bz2
import gzip
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from support.requirements import skip_unless_required

from model.errors import UserError
from model.records import Document, Reason, Reject
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import (
    Source,
    SourceFailure,
    fingerprint_source,
    fingerprint_sources,
    match_sources,
    open_source,
    read_source,
)

LINES = b"".join(b'{"doc_id": "%d", "text": "Some words, %d of them."}\n' % (i, i * i) for i in range(3000))

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor(level=3, write_checksum=True).compress,
}


def write(path: Path, content: bytes = b"x") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def read(path: str, options: ReadOptions | None = None) -> list[Document | Reject]:
    items = list(read_source(path, options or ReadOptions()))
    assert [item.record_index for item in items] == list(range(len(items)))
    assert {item.source for item in items} == {path}
    return items


def test_matching_sorts_and_drops_duplicates(tmp_path: Path) -> None:
    b, a, deep = (write(tmp_path / name, b"xy") for name in ("b.xml", "a.xml", "deep/c.xml"))
    found = match_sources([b, f"{tmp_path}/*.xml", f"{tmp_path}/**/*.xml"])
    assert found == [Source(a, 2), Source(b, 2), Source(deep, 2)]


@pytest.mark.parametrize("name", ["a[1].xml", "a*1.xml", "a?.xml"])
def test_a_name_that_reads_like_a_glob_is_that_file(tmp_path: Path, name: str) -> None:
    path, beside = write(tmp_path / name), write(tmp_path / "a1.xml")
    assert match_sources([path]) == [Source(path, 1)]
    assert match_sources([path, beside]) == sorted([Source(path, 1), Source(beside, 1)], key=lambda one: one.path)


def test_what_cannot_be_matched_says_what_to_do(tmp_path: Path) -> None:
    write(tmp_path / "folder" / "a.xml")
    with pytest.raises(UserError, match=r"no file matches .*none\.\*'; check the path"):
        match_sources([f"{tmp_path}/none.*"])
    for folder in (f"{tmp_path}/folder", f"{tmp_path}/folder/"):
        with pytest.raises(UserError, match=r"is a folder; name its files, for example '.*/folder/\*'"):
            match_sources([folder])
    with pytest.raises(UserError, match="cannot look for 'nowhere://a/b'"):
        match_sources(["nowhere://a/b"])
    assert match_sources([]) == []


def test_a_plain_file_is_seekable(tmp_path: Path) -> None:
    with open_source(write(tmp_path / "a.xml.gz", b"plain")) as source:
        assert source.stream.seekable()
        assert source.stream.read() == b"plain"


@pytest.mark.parametrize("compress", COMPRESSORS.values(), ids=COMPRESSORS)
def test_compression_is_told_by_content(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    content = compress(LINES[:40_000]) + compress(b"") + compress(LINES[40_000:])
    path = write(tmp_path / "a.jsonl", content)
    with open_source(path) as source:
        assert not source.stream.seekable()
        assert source.stream.read() == LINES
    assert [item.doc_id for item in read(path)] == [str(i) for i in range(3000)]


@pytest.mark.parametrize("compress", COMPRESSORS.values(), ids=COMPRESSORS)
def test_compressed_data_that_breaks_off(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    whole = compress(LINES[:40_000])
    content = whole + compress(LINES[40_000:])[:200]
    items = read(write(tmp_path / "a.jsonl.gz", content))
    kept = LINES[:40_000].count(b"\n")
    assert [item.doc_id for item in items[:kept]] == [str(i) for i in range(kept)]
    assert isinstance(items[-1], Reject) and items[-1].reason == Reason.BROKEN_SOURCE
    assert all(isinstance(item, Document) for item in items[:-1])
    head_only = read(write(tmp_path / "b.jsonl", whole[:10]))
    assert [item.reason for item in head_only if isinstance(item, Reject)] == [Reason.BROKEN_SOURCE]


@pytest.mark.parametrize("compress", COMPRESSORS.values(), ids=COMPRESSORS)
def test_an_error_of_a_compressed_stream_is_raised_again_and_no_end_follows(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    with open_source(write(tmp_path / "a", compress(LINES)[:-20])) as source:
        for _ in range(3):
            with pytest.raises((EOFError, OSError)):
                list(iter(lambda: source.stream.read1(1 << 16), b""))


@pytest.mark.parametrize("compress", COMPRESSORS.values(), ids=COMPRESSORS)
def test_compressed_data_that_is_damaged(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    content = compress(LINES)
    middle = len(content) // 2
    items = read(write(tmp_path / "a.jsonl", content[:middle] + b"\xff" * 50 + content[middle + 50 :]))
    last = items[-1]
    assert isinstance(last, Reject) and last.reason == Reason.BROKEN_SOURCE
    assert last.message.startswith(f"reading broke off after {len(items) - 1} records: ")


def test_a_zstd_frame_that_may_be_skipped(tmp_path: Path) -> None:
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"note"
    content = COMPRESSORS["zstd"](b"one, ") + skippable + COMPRESSORS["zstd"](b"two")
    with open_source(write(tmp_path / "a.zst", content)) as source:
        assert source.stream.read() == b"one, two"


def test_a_compression_bomb_is_read_in_small_blocks(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.zst", COMPRESSORS["zstd"](bytes(50_000_000)))
    (reject,) = read(path, ReadOptions(max_record_bytes=1_000_000))
    assert isinstance(reject, Reject) and reject.reason == Reason.TOO_LARGE


@pytest.mark.parametrize("name", ["folder", "pipe", "link to a device"])
def test_what_is_no_file_is_one_reject_and_is_not_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link to a device").symlink_to("/dev/zero")
    (reject,) = read(str(tmp_path / name))
    assert isinstance(reject, Reject)
    assert reject.reason == Reason.UNREADABLE_SOURCE
    assert reject.message == (
        "is a folder" if name == "folder" else "is a pipe or a device; write its content into a file"
    )
    source = fingerprint_source(Source(str(tmp_path / name), 0))
    assert (source.fingerprint["sha256"], source.failure) == (None, None)


@pytest.mark.parametrize("name", ["none.jsonl", "dangling.jsonl", "nowhere://a/b.jsonl"])
def test_a_file_that_cannot_be_opened_fails(tmp_path: Path, name: str) -> None:
    (tmp_path / "dangling.jsonl").symlink_to("none.jsonl")
    path = name if "://" in name else f"{tmp_path}/{name}"
    with pytest.raises(SourceFailure, match="cannot be read: "):
        read(path)


def test_a_glob_leaves_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.jsonl", "b.jsonl", "deep/c.jsonl", "deep/er/d.jsonl", "other.csv"]
    for name in names:
        write(tmp_path / name)
    (tmp_path / "b.jsonl").unlink()
    (tmp_path / "b.jsonl").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.jsonl")

    def found(pattern: str) -> list[str]:
        return [source.path for source in match_sources([pattern])]

    here = str(tmp_path)
    assert found(f"{here}/*.jsonl") == [f"{here}/{name}" for name in ("a.jsonl", "b.jsonl", "pipe.jsonl")]
    assert found(f"{here}/**.jsonl") == [
        f"{here}/{name}" for name in ("a.jsonl", "b.jsonl", "deep/c.jsonl", "deep/er/d.jsonl", "pipe.jsonl")
    ]
    assert found(f"{here}/*/*.jsonl") == [f"{here}/deep/c.jsonl"]
    assert found(f"{here}/d?ep/[a-c].jsonl") == [f"{here}/deep/c.jsonl"]
    assert found(f"{here}/deep/**/*.jsonl") == [f"{here}/deep/er/d.jsonl"]
    monkeypatch.chdir(tmp_path)
    assert (
        found("a.j*") == ["a.jsonl"] and found("deep/*") == ["deep/c.jsonl"] and found("./deep/*") == ["./deep/c.jsonl"]
    )
    (source,) = fingerprint_sources([f"{here}/b.json*"])
    assert source.failure == f"{here}/b.jsonl: cannot be read: No such file or directory"


LIST = """
import sys
from pipelines.corpora.sources import match_sources
print(len(match_sources([sys.argv[1]])))
"""


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        skip_unless_required("strace", "strace is not here")
    write(tmp_path / "a.jsonl")
    write(tmp_path / "deep" / "b.jsonl")
    place = str(tmp_path / "deep")
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", place, "-e", "inject=getdents64:error=EIO"]
    command += [sys.executable, "-W", "ignore", "-c", LIST, f"{tmp_path}/**.jsonl"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1 and "JobFailure: cannot look for" in run.stderr and "Input/output error" in run.stderr


READ = """
import sys
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import SourceFailure, read_source

count = 0
try:
    for item in read_source(sys.argv[1], ReadOptions()):
        assert item.doc_id == str(count), item
        count += 1
    print(count, "all")
except SourceFailure as failure:
    print(count, failure)
"""


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_read_that_fails_is_repeated_and_never_taken_for_the_end(tmp_path: Path, name: str) -> None:
    if shutil.which("strace") is None:
        skip_unless_required("strace", "strace is not here")
    lines = "".join(f'{{"doc_id": "{i}", "text": "{random.Random(i).random()} and so on."}}\n' for i in range(40_000))
    content = gzip.compress(lines.encode()) if name.endswith(".gz") else lines.encode()
    path = write(tmp_path / name, content)
    said = {}
    for when in ("3..5", "3+"):  # a moment; for ever
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", path, "-e", f"inject=read:error=EIO:when={when}"]
        run = subprocess.run(
            [*command, sys.executable, "-W", "ignore", "-c", READ, path], capture_output=True, text=True, check=True
        )
        said[when] = run.stdout.strip()
    assert said["3..5"] == "40000 all"
    count, _, failure = said["3+"].partition(" ")
    assert 0 < int(count) < 40_000
    assert failure == f"{path}: cannot be read: Input/output error"


def test_a_name_that_is_not_utf8_is_written_with_escapes(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl")
    Path(path).write_text('{"doc_id": "1", "text": "Some words."}\n', encoding="utf-8")
    shown = f"{tmp_path}/caf\\xe9.jsonl"
    (source,) = fingerprint_sources([f"{tmp_path}/*.jsonl"])
    assert (source.path, source.fingerprint["path"]) == (path, shown)
    (document,) = read_source(path, ReadOptions())
    assert isinstance(document, Document) and document.source == shown


@pytest.mark.parametrize("content", [b"", gzip.compress(b"", mtime=0)], ids=["empty", "gzip"])
def test_an_empty_file_is_one_reject(tmp_path: Path, content: bytes) -> None:
    (reject,) = read(write(tmp_path / "a.jsonl.gz", content))
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.message) == (Reason.UNREADABLE_SOURCE, "the file is empty")


def test_a_file_of_no_known_format_is_one_reject(tmp_path: Path) -> None:
    (reject,) = read(write(tmp_path / "a.bin", b"\x00\x01\x02"))
    assert isinstance(reject, Reject) and reject.reason == Reason.UNREADABLE_SOURCE
