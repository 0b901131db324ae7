"""Output objects on this machine, and on a store that has no renames and shows an object once it is complete."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata, FileSystem
from conftest import PROJECT, tiny_documents

from model.bundles.bundle import Bundle
from model.errors import JobFailure, UserError
from pipelines.cli import main
from pipelines.corpora.chunks import Unit, read_chunks
from pipelines.corpora.options import ReadOptions
from pipelines.corpora.sources import SourceFailure, fingerprint_sources
from pipelines.storage import objects


class _Upload(io.BytesIO):
    """What is written becomes visible on closing, and not at all if there is nothing."""

    def __init__(self, target: Path) -> None:
        super().__init__()
        self._target = target

    def close(self) -> None:
        if not self.closed:
            if not self.getvalue():
                raise BeamIOError("an upload has at least one part")
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._target.write_bytes(self.getvalue())
        super().close()


class ObjectStore(FileSystem):
    """A filesystem of Beam's with the habits of an object store; its objects lie in the folder `root`.

    It has no folders, no renames, no empty objects; listing is by prefix; removing what is not there is an error.
    """

    root: Path
    asked: ClassVar[list[str]] = []
    """What it was asked about single objects."""

    @classmethod
    def scheme(cls) -> str:
        return "teststore"

    def _local(self, path: str) -> Path:
        return self.root / path.removeprefix("teststore://")

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join((basepath.rstrip("/"), *paths))

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def mkdirs(self, path: str) -> None:
        pass

    def has_dirs(self) -> bool:
        return False

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        for file in sorted(self.root.rglob("*")):
            path = f"teststore://{file.relative_to(self.root)}"
            if file.is_file() and path.startswith(dir_or_prefix):
                yield FileMetadata(path, file.stat().st_size, file.stat().st_mtime)

    def create(self, path: str, mime_type: str = "", compression_type: str = CompressionTypes.AUTO) -> Any:
        return _Upload(self._local(path))

    def open(self, path: str, mime_type: str = "", compression_type: str = CompressionTypes.AUTO) -> Any:
        return open(self._local(path), "rb")

    def copy(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        raise AssertionError("copying moves every byte")

    def rename(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        raise AssertionError("renaming copies every byte")

    def exists(self, path: str) -> bool:
        return self._local(path).is_file()

    def size(self, path: str) -> int:
        self.asked.append("size")
        return self._local(path).stat().st_size

    def last_updated(self, path: str) -> float:
        return self._local(path).stat().st_mtime

    def checksum(self, path: str) -> str:
        self.asked.append("checksum")
        return f"tag-{hash(self._local(path).read_bytes()) % 2**32:x}"

    def metadata(self, path: str) -> FileMetadata:
        return FileMetadata(path, self.size(path), self.last_updated(path))

    def delete(self, paths: list[str]) -> None:
        missing = {path: FileNotFoundError(path) for path in paths if not self.exists(path)}
        for path in set(paths) - set(missing):
            self._local(path).unlink()
        if missing:
            raise BeamIOError("removing failed", missing)


class FolderStore(ObjectStore):
    """One with folders, in the way of hdfs: a folder is listed alone, and one that is not there is an error."""

    @classmethod
    def scheme(cls) -> str:
        return "testfolders"

    def _local(self, path: str) -> Path:
        return self.root / path.removeprefix("testfolders://")

    def has_dirs(self) -> bool:
        return True

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        try:
            for path in sorted(self._local(dir_or_prefix).iterdir()):
                size = path.stat().st_size if path.is_file() else 0
                yield FileMetadata(f"testfolders://{path.relative_to(self.root)}", size, 0.0)
        except OSError as error:
            raise BeamIOError("listing failed", {dir_or_prefix: error}) from error


@pytest.fixture
def store(tmp_path: Path) -> str:
    ObjectStore.root = tmp_path / "store"
    ObjectStore.root.mkdir()
    return "teststore://bucket"


@pytest.fixture(params=["local", "teststore", "testfolders"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, store: str) -> str:
    if request.param == "testfolders":
        return "testfolders://bucket/a/b"  # Beam lists no folder there whose name reads like a glob
    return str(tmp_path / "a[1]" / "b") if request.param == "local" else f"{store}/a[1]/b"


def test_a_store_is_asked_once_whether_an_object_has_changed(store: str) -> None:
    objects.write_bytes(f"{store}/a.jsonl", b'{"doc_id": "1", "text": "One."}\n')
    (source,) = fingerprint_sources([f"{store}/*.jsonl"])
    ObjectStore.asked.clear()
    unit = Unit(source.path, "part-a-0", state=source.state)
    (chunk,) = read_chunks(unit, ReadOptions(), size=10)
    assert len(chunk.items) == 1
    assert ObjectStore.asked == ["checksum"] * 2  # when it is opened, and when the chunk is read
    objects.write_bytes(f"{store}/a.jsonl", b'{"doc_id": "2", "text": "Two."}\n')
    with pytest.raises(SourceFailure, match="has changed since this command began"):
        list(read_chunks(unit, ReadOptions(), size=10))


def test_objects_are_written_listed_read_and_removed(folder: str) -> None:
    assert objects.list_names(folder) == set()
    assert objects.is_empty(folder)
    for name, content in (("one", b"1"), ("two", b"2"), ("below/three", b"3"), ("one", b"1 again")):
        objects.write_bytes(f"{folder}/{name}", content)
    assert objects.list_names(folder) - {"below"} == {"one", "two"}  # some list folders too
    assert objects.list_names(f"{folder}/below") == {"three"}
    assert not objects.is_empty(folder)
    assert objects.read_bytes(f"{folder}/one") == b"1 again"
    with objects.open_object(f"{folder}/one") as stream:
        stream.seek(2)
        assert stream.read() == b"again"
    objects.remove([f"{folder}/one", f"{folder}/gone"])
    objects.remove([])
    assert objects.list_names(folder) - {"below"} == {"two"}
    with pytest.raises(OSError, match="one"):
        objects.read_bytes(f"{folder}/one")
    with pytest.raises(ValueError, match="at least one byte"):
        objects.write_bytes(f"{folder}/nothing", b"")


def test_folders_are_copied_and_emptied_with_all_that_is_below(folder: str, tmp_path: Path) -> None:
    assert objects.list_tree(folder) == set()
    content = {"one": b"1", "below/two": b"2", "below/it/three": b"3"}
    for name, written in content.items():
        objects.write_bytes(f"{folder}/{name}", written)
    objects.write_bytes(f"{folder}-beside/four", b"4")
    assert objects.list_tree(folder) == set(content)
    copy = str(tmp_path / "copy")
    objects.copy_tree(folder, copy)
    assert {name: objects.read_bytes(f"{copy}/{name}") for name in objects.list_tree(copy)} == content
    objects.empty_folder(folder, keep="one")
    assert objects.list_tree(folder) == {"one"}
    assert objects.list_tree(f"{folder}-beside") == {"four"}


def test_what_is_only_below_makes_a_folder_not_empty(folder: str) -> None:
    objects.write_bytes(f"{folder}/below/it/three", b"3")
    assert not objects.is_empty(folder)


def test_what_is_half_written_is_never_seen_and_can_be_cleared(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / ".part.parquet.0a1b.writing").write_bytes(b"half")
    assert objects.is_empty(str(folder))
    assert objects.list_names(str(folder)) == set()
    objects.remove_temporaries(str(folder))
    assert not list(folder.iterdir())


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(JobFailure, match=r"file/below/part: cannot be written: Not a directory$"):
        objects.write_bytes(str(tmp_path / "file" / "below" / "part"), b"x")
    (tmp_path / "taken").mkdir()
    with pytest.raises(JobFailure, match=r"taken: cannot be written: Is a directory$"):
        objects.write_bytes(str(tmp_path / "taken"), b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(UserError, match="is a file; name a folder"):
        objects.list_names(str(tmp_path / "file"))
    with pytest.raises(UserError, match="is a file; name a folder"), objects.lock_folder(str(tmp_path / "file")):
        pass


def test_a_lock_holds_against_other_processes_and_dies_with_its_own(tmp_path: Path) -> None:
    folder = str(tmp_path / "out")
    code = "import sys, time; from pipelines.storage.objects import lock_folder\n"
    code += "with lock_folder(sys.argv[1]): print('locked', flush=True); time.sleep(600)"
    other = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, folder], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(UserError, match="another sepline is writing there"), objects.lock_folder(folder):
        pass
    other.kill()
    other.communicate()
    with objects.lock_folder(folder):
        assert os.listdir(folder) == []


def test_a_folder_is_scored_resumed_and_extended_in_a_store(
    tiny_bundle: Bundle, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Inputs and output lie there; the bytes are those of a local folder but for the sources' names."""
    lines = [json.dumps(document) for document in tiny_documents(20)]
    bucket = ObjectStore.root / "bucket"
    (bucket / "in").mkdir(parents=True)
    (bucket / "in" / "a.jsonl").write_text("\n".join(lines[:12]) + "\n{broken\n", encoding="utf-8")
    command = ["score", "--model", str(tiny_bundle.path), "--input", f"{store}/in/*", "--output", f"{store}/out/"]
    # The store is in this process, so the job has to run here, too.
    beam = ["--", "--runner=BundleBasedDirectRunner"]
    command += ["--chunk-records", "5", "--json"]
    assert main([*command, *beam]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["records"] == 13
    out = bucket / "out"
    first = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    others = ["_SUCCESS", "_job.json", "_manifest.json", "_parts.parquet"]
    assert sorted(name for name in first if not name.startswith("part-")) == others

    (out / "_SUCCESS").unlink()
    sorted(out.glob("part-*"))[1].unlink()
    (bucket / "in" / "b.jsonl").write_text("\n".join(lines[12:]), encoding="utf-8")
    assert main([*command, *beam]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["counts"]["records"] == 21 == manifest["counts"]["scored"] + 1
    assert {path.name: path.read_bytes() for path in out.glob("part-a-*")} == {
        name: content for name, content in first.items() if name.startswith("part-a-")
    }
    assert pq.read_table(out)["doc_id"].unique().to_pylist() == [f"tiny-{number:03}" for number in range(20)]

    (bucket / "in" / "a.jsonl").write_text(lines[0], encoding="utf-8")
    assert main([*command, *beam]) == 2
    assert "1 is changed" in capsys.readouterr().err
    assert main([*command, "--overwrite", *beam]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["records"] == 9
