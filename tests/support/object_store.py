"""An object store that tests start: a real server that speaks S3, with one bucket."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from support.engine_servers import server, versitygw_binary

ACCESS = {"access_key_id": "key", "secret_access_key": "secret"}


@dataclass(frozen=True)
class Store:
    """A store with one bucket, `sepline`."""

    client: Any
    flags: list[str]

    def parts(self, prefix: str) -> dict[str, bytes]:
        return {name: self.read(f"{prefix}/{name}") for name in self.names(prefix) if "part-" in name}

    def names(self, prefix: str) -> set[str]:
        listed = self.client.list_objects_v2(Bucket="sepline", Prefix=f"{prefix}/").get("Contents", [])
        return {entry["Key"].removeprefix(f"{prefix}/") for entry in listed}

    def read(self, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket="sepline", Key=key)["Body"].read()
        return content

    def wait_for_parts(self, prefix: str, process: subprocess.Popen[bytes]) -> None:
        while sum("part-" in name for name in self.names(prefix)) < 3:
            assert process.poll() is None
            time.sleep(0.02)


@contextmanager
def serving(folder: Path, port: int) -> Iterator[Store]:
    """Serves the objects that lie in a folder; the server is killed when the block ends, with SIGKILL."""
    objects = folder / "objects"
    objects.mkdir(exist_ok=True)
    command = [str(versitygw_binary()), "--port", f"localhost:{port}", "posix", str(objects)]
    access = {"ROOT_ACCESS_KEY": ACCESS["access_key_id"], "ROOT_SECRET_KEY": ACCESS["secret_access_key"]}
    with server(command, port, folder / "log.txt", env={**os.environ, **access}):
        keys = {f"aws_{name}": value for name, value in ACCESS.items()}
        client = boto3.client("s3", endpoint_url=f"http://localhost:{port}", region_name="us-east-1", **keys)
        if not client.list_buckets()["Buckets"]:
            client.create_bucket(Bucket="sepline")
        yield Store(client, flags(port))
        client.close()


def flags(port: int) -> list[str]:
    where = [f"--s3_endpoint_url=http://localhost:{port}", "--s3_region_name=us-east-1"]
    return [*where, *(f"--s3_{name}={value}" for name, value in ACCESS.items())]
