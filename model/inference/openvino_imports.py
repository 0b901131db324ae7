"""Loads what the predictor openvino needs: imported by the process that forks workers, before it does.

A missing package is no matter here: the worker that needs it says so.
"""

from __future__ import annotations

from contextlib import suppress

from model.errors import UserError
from model.extras import import_extra, import_openvino

with suppress(UserError):
    import_openvino("the predictor openvino")
    import_extra("tokenizers", extra="fast", purpose="the predictor openvino")
