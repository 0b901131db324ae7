"""The pool of SDK workers that runs next to a task manager of Flink or an executor of Spark.

    python -m pipelines.runners.worker_pool --service-port=50000

Whoever reaches a pool can run programs as its user. Beam's own `worker_pool_main` listens on all interfaces; this one
on the name or address that it is given, by default on this machine alone.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence

import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer, kill_process_gracefully
from apache_beam.utils import thread_pool_executor

_OPTIONS = [
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),  # a second pool on the port fails instead of sharing it
]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a pool until it is stopped, with its workers, by Ctrl-C or SIGTERM; returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.runners.worker_pool", description=__doc__)
    parser.add_argument("--service-port", type=int, required=True, metavar="PORT", help="where runners ask for workers")
    parser.add_argument("--host", default="localhost", help="the interface to listen on (default: localhost)")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO)
    # The pool starts workers as `python`.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])

    server = grpc.server(thread_pool_executor.shared_unbounded_instance(), options=_OPTIONS)
    pool = BeamFnExternalWorkerPoolServicer(use_process=True)
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    host = f"[{options.host}]" if ":" in options.host else options.host
    try:
        server.add_insecure_port(f"{host}:{options.service_port}")
    except RuntimeError:
        print(f"sepline: can't listen on {host}:{options.service_port}; is another pool there?", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    server.start()
    print(f"workers for {host}:{options.service_port}", flush=True)
    try:
        server.wait_for_termination()
    except KeyboardInterrupt:
        pass
    finally:
        server.stop(0)
        for process in pool._worker_processes.values():
            kill_process_gracefully(process)
    return 0


if __name__ == "__main__":
    sys.exit(main())
