"""Listing a store that has many pages: each page has the time limit, not all of them together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import parse_qs, urlsplit

import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from support.object_store import flags

from model.errors import JobFailure
from pipelines.storage import filesystems, objects

PAGES, OBJECTS = 8, 3
PAUSE = 0.4
PATIENCE = 3.0  # the first call loads the client, too, which takes a second on a busy machine
_OBJECT = (
    "<Contents><Key>in/{page}-{number}.xml</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    '<ETag>"e"</ETag><Size>{number}</Size></Contents>'
)


@contextmanager
def slow_store(*, stops_at: int | None = None) -> Iterator[int]:
    """Serves S3's listing, with a pause before each page, and yields the port; at page `stops_at` no answer comes."""
    ended = Event()

    class Listing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = int(parse_qs(urlsplit(self.path).query).get("continuation-token", ["0"])[0])
            if page == stops_at:
                ended.wait()
                return
            time.sleep(PAUSE)
            listed = "".join(_OBJECT.format(page=page, number=number) for number in range(OBJECTS))
            more = f"<NextContinuationToken>{page + 1}</NextContinuationToken>" if page + 1 < PAGES else ""
            truncated = f"<IsTruncated>{'true' if more else 'false'}</IsTruncated><KeyCount>{OBJECTS}</KeyCount>"
            body = f"<ListBucketResult>{listed}{truncated}{more}</ListBucketResult>".encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("localhost", 0), Listing) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        ended.set()
        server.shutdown()


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(filesystems, "PATIENCE", PATIENCE)
    yield
    FileSystems.set_options(PipelineOptions([]))


def test_a_listing_of_many_pages_may_take_longer_than_one_call() -> None:
    assert PAGES * PAUSE > PATIENCE
    with slow_store() as port:
        FileSystems.set_options(PipelineOptions(flags(port)))
        sizes = {f"{page}-{number}.xml": number for page in range(PAGES) for number in range(OBJECTS)}
        assert dict(filesystems.match("s3://sepline/in/*.xml")) == {
            f"s3://sepline/in/{name}": size for name, size in sizes.items()
        }
        assert objects.list_names("s3://sepline/in") == sizes.keys()


def test_a_store_that_stops_in_the_middle_of_a_listing_is_given_up() -> None:
    with slow_store(stops_at=2) as port:
        FileSystems.set_options(PipelineOptions(flags(port)))
        with pytest.raises(JobFailure, match="no answer in 3 seconds"):
            filesystems.match("s3://sepline/in/*.xml")
