"""The process that starts scoring's local workers. It is loaded early, so this module loads little."""

from __future__ import annotations

from model.bundles.bundle import openvino_facts, read_description
from model.bundles.registry import find_model
from model.inference.choice import choose_name
from model.inference.kinds import PredictorChoice
from pipelines.runners.fork_server import ForkServer, fork_server
from pipelines.runners.machine import visible_gpus

PIPELINE = "pipelines.scoring.pipeline"
"""The module of what the workers run."""


def scoring_server(predictor: str) -> ForkServer:
    """Returns the process that starts the workers; `start` lets it load Beam and the predictor while others work."""
    return fork_server(PIPELINE, *PredictorChoice(predictor).kind().modules)


def start_server(bundle_dir: str, predictor: str | None, precision: str | None) -> None:
    """Lets the process that starts workers load what the job's predictor needs, without waiting for it.

    Raises:
        UserError: there is no bundle, or the predictor can't run it.
    """
    folder = find_model(bundle_dir)
    facts = openvino_facts(read_description(folder))
    gpu = bool(visible_gpus())
    scoring_server(choose_name(str(folder), facts, predictor, precision, gpu=gpu)).start()
