"""Fixtures: a real S3 API on loopback, and a proxy before it that can hold a request back."""

import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from bench.nodes import free_ports

SERVE = """
import sys, threading
from moto.server import ThreadedMotoServer
ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]), verbose=False).start()
threading.Event().wait()
"""
PATIENCE_S = 60


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Return the address of an S3 API that lives as long as the tests."""
    pytest.importorskip("moto")
    (port,) = free_ports(1)
    server = subprocess.Popen([sys.executable, "-c", SERVE, str(port)], stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < limit, "the S3 server did not start"
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of a new bucket, which this process and those that it starts can use."""
    from s3fs import S3FileSystem

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()  # it keeps the address that it was made with
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    S3FileSystem(use_listings_cache=False).mkdir(name)
    return f"s3://{name}"


class Proxy:
    """Passes requests on, and does harm to those whose method and path match.

    Those that match `hold` are held back for ever; the next `cuts` answers to those that match `cut` end in the middle;
    those for which `refuse` returns a status and an error's code get these.
    """

    def __init__(self, server: str) -> None:
        self.hold: re.Pattern[str] | None = None
        self.held = threading.Event()
        self.cut: re.Pattern[str] | None = None
        self.cuts = 0
        self.refuse: Callable[[str], tuple[int, str] | None] = lambda line: None
        self.requests: list[str] = []
        proxy, target = self, urlsplit(server).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                line = f"{self.command} {self.path}"
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                proxy.requests.append(line)
                if proxy.hold is not None and proxy.hold.match(line):
                    proxy.held.set()
                    threading.Event().wait()
                if (refusal := proxy.refuse(line)) is not None:
                    said = f"<Error><Code>{refusal[1]}</Code><Message>{refusal[1]}</Message></Error>".encode()
                    self.send_response_only(refusal[0])
                    self.send_header("Content-Length", str(len(said)))
                    self.end_headers()
                    self.wfile.write(said if self.command != "HEAD" else b"")
                    return
                connection = http.client.HTTPConnection(target, timeout=PATIENCE_S)
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("expect", "connection")}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length)
                self.end_headers()
                connection.close()
                if proxy.cuts and proxy.cut is not None and proxy.cut.match(line):
                    proxy.cuts -= 1
                    self.wfile.write(content[: len(content) // 2])
                    self.close_connection = True
                    return
                self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

            def log_message(self, format: str, *values: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.socket.close()


@pytest.fixture
def proxy(s3_server: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Return a proxy before the S3 server, which processes that are started from now on go through."""
    opened = Proxy(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", opened.url)
    yield opened
    opened.close()
