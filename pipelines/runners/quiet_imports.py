"""Loads heavy libraries without the messages that they print, and without others that nothing here needs of them."""

from __future__ import annotations

import gc
import importlib.machinery
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from model.extras import imports_blocked

_NOISY = frozenset({"apache_beam", "tensorflow", "tensorflow_text", "tensorflow_transform", "tfx_bsl"})
_LOGGERS = ("apache_beam", "tensorflow", "absl")
# What a library loads if it is installed, for functions that nothing here uses: seconds, and tens of megabytes.
_UNUSED = {
    "apache_beam": ("pandas", "pymongo", "bson"),
    "keras": ("pandas", "sklearn"),
    "pyarrow": ("pandas",),
    "tensorflow": ("jax", "pandas", "sklearn"),  # JAX for its converter to TensorFlow Lite
}


def keep_imports_quiet() -> None:
    """Makes every later import of TensorFlow, Beam and the like quiet, wherever in this process it happens.

    What such a library prints while it is loaded appears only if loading fails. Python's warnings, and log messages
    below errors, are silenced from here on. TensorFlow, Beam and Arrow are loaded without
    scikit-learn, pandas, and JAX if that is not the backend of Keras; they can be imported later.
    """
    if not any(isinstance(finder, _QuietFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _QuietFinder())
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    _log_errors_only()


class _QuietFinder(MetaPathFinder):
    """Finds the noisy libraries as Python does, but loads them quietly."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _NOISY and fullname not in _UNUSED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_quietly(module: ModuleType) -> None:
            unused = set(_UNUSED.get(fullname, ())) - {os.environ.get("KERAS_BACKEND")}
            with _quiet(), _no_collections(), imports_blocked(*unused):
                load(module)
                if fullname == "pyarrow" and "pandas" not in sys.modules:
                    module.array([None])  # Arrow looks for pandas now, and not again

        spec.loader.exec_module = load_quietly  # type: ignore[method-assign]
        return spec


@contextmanager
def _no_collections() -> Iterator[None]:
    """Stops Python from looking for garbage: a library that loads has made a million objects, and none is garbage."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def _quiet() -> Iterator[None]:
    """Holds back what is written to standard error, and writes it only if there is an exception.

    TensorFlow's C++ code logs on file descriptor 2 before it reads its log level, so that descriptor is redirected.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            noise.seek(0)
            os.write(terminal, noise.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            _log_errors_only()  # loading may have changed the levels


def _log_errors_only() -> None:
    for name in (None, *_LOGGERS):
        logging.getLogger(name).setLevel(logging.ERROR)
