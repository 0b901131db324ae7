"""A tiny BERT checkpoint and a tiny labelled corpus, and the records and the bundle that the real jobs make of them.

All of it is made once a run, from fixed seeds, with no download. The real encoder and the public corpora are
fixtures too; a test that asks for them is skipped, with the reason, where they can't be had.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.requirements import required, skip_unless_required
from support.warm_jobs import WarmJobs

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Tests compare floats: one kind of device, and one thread, so that sums have one order. Test processes share the cores.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
for _threads in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")

PROJECT = Path(__file__).parent.parent

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CUES = {
    "background": ("little", "known", "remains"),
    "methods": ("measured", "randomized", "used"),
    "results": ("significant", "increase", "found"),
    "conclusions": ("suggest", "conclude", "should"),
}
"""The labels of the tiny corpus, and the words any one of which gives a sentence its label."""
TINY_TRAINING = {"epochs": 12, "batch_tokens": 192, "learning_rate": 0.01}
"""The training settings of the tiny bundle: enough steps to be right on most sentences."""
TINY_TRAINING_OVERRIDES = [f"training.{name}={value}" for name, value in TINY_TRAINING.items()]
FILLERS = (
    "the",
    "a",
    "of",
    "in",
    "we",
    "patients",
    "cells",
    "group",
    "drug",
    "dose",
    "trial",
    "effect",
    "level",
    "model",
    "data",
    "after",
    "was",
    "were",
    "with",
)
PIECES = (
    "##s",
    "##ed",
    "##ing",
    "##tion",
    "##al",
    "##e",
    "##n",
    "##t",
    "##1",
    "##2",
    "treat",
    "test",
    "control",
    "learn",
)
PUNCTUATION = tuple(".,;:()%-=<>[]+/")
TINY_VOCABULARY = (
    *SPECIAL_TOKENS,
    *FILLERS,
    *(cue for cues in CUES.values() for cue in cues),
    *PIECES,
    *PUNCTUATION,
    *(letter for letter in "bcdefghijklmnopqrstuvwxyz0123456789" if letter not in FILLERS),
)
TINY_SHAPE: dict[str, Any] = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "vocab_size": len(TINY_VOCABULARY),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 128,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.02,  # 0.1 is too much for a width of 16
    "attention_probs_dropout_prob": 0.02,
}


_LONG = ("retraining/test_retrain.py", "training/test_variants.py", "training/test_train.py", "scoring/test_resume.py")

MakeOnce = Callable[[str, Callable[[Path], object]], Path]


def pytest_configure() -> None:
    required()  # refuses what is spelt wrongly before anything runs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files whose tests take long first, so that test processes end at about the same time."""
    places = {str(PROJECT / "tests" / name): place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: places.get(str(item.path), len(places)))


def tiny_weights(shape: dict[str, Any], *, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns random weights by their Hugging Face names, large enough that every one of them changes the output."""
    random_state = np.random.default_rng(seed)
    width, wide = shape["hidden_size"], shape["intermediate_size"]

    def draw(*size: int, scale: float = 0.3) -> np.ndarray:
        return random_state.normal(0.0, scale, size).astype(np.float32)

    angles = np.outer(np.arange(shape["max_position_embeddings"]), 1.0 / 2.0 ** np.arange(1, width // 2 + 1))
    weights = {
        "embeddings.word_embeddings.weight": draw(shape["vocab_size"], width),
        # Smooth positions, as pretrained encoders have: a few dozen documents teach no other kind.
        "embeddings.position_embeddings.weight": np.hstack([np.sin(angles), np.cos(angles)]).astype(np.float32),
        "embeddings.token_type_embeddings.weight": draw(shape["type_vocab_size"], width),
        "embeddings.LayerNorm.weight": 1 + draw(width),
        "embeddings.LayerNorm.bias": draw(width),
    }
    for layer in range(shape["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}"
        for name, rows, columns in (
            ("attention.self.query", width, width),
            ("attention.self.key", width, width),
            ("attention.self.value", width, width),
            ("attention.output.dense", width, width),
            ("intermediate.dense", wide, width),
            ("output.dense", width, wide),
        ):
            weights[f"{prefix}.{name}.weight"] = draw(rows, columns)
            weights[f"{prefix}.{name}.bias"] = draw(rows)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            weights[f"{prefix}.{name}.weight"] = 1 + draw(width)
            weights[f"{prefix}.{name}.bias"] = draw(width)
    return weights


def write_checkpoint(
    folder: Path,
    *,
    shape: dict[str, Any] | None = None,
    vocabulary: tuple[str, ...] = TINY_VOCABULARY,
    weights: dict[str, np.ndarray] | None = None,
) -> Path:
    """Writes a Hugging Face BERT checkpoint, by default the tiny one, and returns its folder."""
    from safetensors.numpy import save_file

    shape = shape or TINY_SHAPE
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in vocabulary), encoding="utf-8")
    save_file(weights or tiny_weights(shape), folder / "model.safetensors")
    return folder


def tiny_documents(count: int = 60, *, seed: int = 7) -> list[dict[str, Any]]:
    """Returns labelled records: the labels follow on one another through a document, and each sentence has a cue word.

    Every tenth document is long, and every twentieth has a sentence that is longer than the records' window.
    """
    draw = random.Random(seed)
    documents = []
    for number in range(count):
        sentences, labels = [], []
        length = draw.randint(9, 14) if number % 10 == 0 else draw.randint(1, 5)
        for place in range(length):
            label = list(CUES)[min(place, 3) if length <= 5 else place * 4 // length]
            words = [draw.choice(FILLERS) for _ in range(draw.randint(2, 7))]
            words.insert(draw.randrange(len(words) + 1), draw.choice(CUES[label]))
            if number % 20 == 0 and place == 1:
                words += [draw.choice(FILLERS) for _ in range(60)]
            sentences.append(" ".join(words).capitalize() + ".")
            labels.append(label)
        documents.append({"doc_id": f"tiny-{number:03}", "sentences": sentences, "labels": labels})
    return documents


def write_corpus(folder: Path, name: str, documents: list[dict[str, Any]]) -> Path:
    """Writes documents as JSON lines into a folder, and returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text("".join(json.dumps(document) + "\n" for document in documents), encoding="utf-8")
    return file


def make_records(corpus: Path, folder: Path, settings: Any) -> None:
    """Preprocesses a corpus on the local runner."""
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipelines.corpora.options import ReadOptions
    from pipelines.preprocessing.preprocess import preprocess

    preprocess(
        [str(corpus)],
        str(folder),
        settings=settings,
        options=ReadOptions(),
        beam_options=PipelineOptions(["--runner=FnApiRunner"]),
    )


def real_data(name: str) -> Path:
    """Returns the path of a public corpus under `$SEPLINE_DATA`, or skips the test where it is absent."""
    folder = Path(os.environ.get("SEPLINE_DATA", PROJECT.parent / "shared" / "data"))
    if not (folder / name).exists():
        reason = f"{folder / name} is absent; set SEPLINE_DATA to the folder that holds the corpora"
        skip_unless_required("corpora", reason)
    return folder / name


def real_encoder() -> Path:
    """Returns the folder of the real MiniLM checkpoint, downloaded on first use; skips the test without it."""
    from model.encoders.downloads import fetch
    from model.errors import UserError

    try:
        return fetch("minilm-l6")
    except UserError as error:
        skip_unless_required("minilm", str(error))


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """Makes a folder of a name once for all processes that run these tests: `make_once(NAME, make)` returns it.

    The first that asks for it calls `make` with its path; others that ask meanwhile wait. Such folders are read-only.
    """
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    shared.mkdir(exist_ok=True)

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, mark = shared / name, shared / f"{name}.made"
        with open(shared / f"{name}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not mark.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of one that failed
                make(folder)
                mark.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def warm_jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmJobs]:
    """Starts processes of `sepline` that need not import TensorFlow and Beam first."""
    with WarmJobs(tmp_path_factory.mktemp("jobs")) as jobs:
        yield jobs


@pytest.fixture(scope="session")
def installed_python(make_once: MakeOnce) -> Path:
    """The Python of an environment in which the project is installed from its sdist, as it is for workers."""
    from support.engine_servers import install_sdist

    return make_once("installed", install_sdist) / "environment" / "bin" / "python"


@pytest.fixture(scope="session")
def tiny_encoder(make_once: MakeOnce) -> Path:
    """The folder of a tiny random BERT checkpoint in Hugging Face's naming; give it as `encoder.handle`.

    Uncased, 2 layers, 16 wide, 2 heads, 128 positions; its vocabulary tokenizes any ASCII text into words and letters.
    """
    return make_once("encoder", write_checkpoint)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the real MiniLM checkpoint."""
    return real_encoder()


@pytest.fixture(scope="session")
def tiny_corpus(make_once: MakeOnce) -> Path:
    """A JSON-lines file of 60 labelled documents, `tiny_documents()`: keys `doc_id`, `sentences`, `labels`.

    Labels are learnable. Six documents have 9 to 14 sentences, three of them a sentence of over 60 wordpieces.
    """
    return make_once("corpus", lambda folder: write_corpus(folder, "tiny.jsonl", tiny_documents())) / "tiny.jsonl"


@pytest.fixture(scope="session")
def tiny_settings(tiny_encoder: Path) -> Any:
    """The `Settings` of `tiny_records` and `tiny_bundle`: 48-wordpiece windows with one sentence of context."""
    from model.config import settings_from_dict

    return settings_from_dict(
        {
            "encoder": {"handle": str(tiny_encoder)},
            "window": {"max_tokens": 48, "context": 1},
            "data": {"splits": {"train": 0.6, "dev": 0.2, "test": 0.2}, "part_records": 25, "buckets": 3},
            "training": TINY_TRAINING,
        },
        origin="tests",
    )


@pytest.fixture(scope="session")
def tiny_records(make_once: MakeOnce, tiny_corpus: Path, tiny_settings: Any) -> Path:
    """The folder of training records that `preprocess` makes of `tiny_corpus`; long documents have several windows.

    Read-only: every test shares it.
    """
    return make_once("records", lambda folder: make_records(tiny_corpus, folder, tiny_settings))


@pytest.fixture
def tiny_command(tiny_corpus: Path, tiny_settings: Any, tmp_path: Path) -> list[str]:
    """The command that makes `tiny_records`, but for the output, which comes next."""
    config = tmp_path / "settings.yaml"
    config.write_text(yaml.safe_dump(tiny_settings.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    return ["preprocess", "--input", str(tiny_corpus), "--config", str(config), "--output"]


@pytest.fixture(scope="session")
def tiny_bundle(make_once: MakeOnce, tiny_records: Path, tiny_settings: Any) -> Any:
    """The `Bundle` of twelve epochs on `tiny_records`, right on most sentences; its run is `tiny_bundle.path.parent`.

    Read-only: every test shares it.
    """
    from model.bundles.bundle import load_bundle
    from model.training.train import train_and_evaluate

    run = make_once("run", lambda folder: train_and_evaluate(tiny_settings, str(tiny_records), str(folder)))
    return load_bundle(run / "bundle")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An object store that speaks S3, a `support.object_store.Store` with an empty bucket, which a module shares."""
    from support.engine_servers import free_port
    from support.object_store import serving

    with serving(tmp_path_factory.mktemp("store"), free_port()) as store:
        yield store


_MOUNT = 'mount -t tmpfs -o size=2m none "$0" && echo mounted && exec cat'
_SEE_WHAT_IT_SEES = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for space in [os.open("/proc/{pid}/ns/" + name, os.O_RDONLY) for name in ("user", "mnt")]:
    if libc.setns(space, 0):
        raise OSError(ctypes.get_errno(), "setns")
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A disk of 2 MiB: its path, and the process for which it is mounted there."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("unshare") is None:
        skip_unless_required("mount", "there is no unshare to mount a small disk with")
    command = ["unshare", "-rm", "sh", "-c", _MOUNT, str(disk)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        if holder.stdout.readline() != "mounted\n":
            skip_unless_required("mount", "this system lets no user mount a small disk")
        yield disk, holder.pid
        holder.stdin.close()


def see_mounts(holder: int) -> str:
    """Returns code that makes a process see what is mounted for the process `holder`."""
    return _SEE_WHAT_IT_SEES.format(pid=holder)
