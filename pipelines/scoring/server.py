"""The process that starts scoring's local workers. It is loaded early, so this module loads nothing."""

from __future__ import annotations

from model.inference.kinds import TENSORFLOW
from pipelines.runners.fork_server import ForkServer, fork_server

PIPELINE = "pipelines.scoring.pipeline"
"""The module of what the workers run."""


def scoring_server() -> ForkServer:
    """Returns the process that starts the workers; `start` lets it load TensorFlow and Beam while others work."""
    return fork_server(PIPELINE, *TENSORFLOW.kind().modules)
