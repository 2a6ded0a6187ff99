"""The metrics of a run at http://host:port/metrics, for Prometheus.

A scrape is answered by a thread of the driver from what the ranks have pushed before, so that it neither waits
for a rank nor makes one wait.
"""

import errno
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from distaug.errors import StorageError
from distaug.spec.metrics import MetricsSpec
from distaug.store.whole import write_whole
from distaug.telemetry.board import Board

__all__ = ["FIRST_PORT", "serve"]

FIRST_PORT = 9108
_PORTS = 100


class _Families(Collector):
    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterator[Metric]:
        for metric, samples in self._board.families():
            family = Metric(metric.name.removesuffix("_total"), metric.help, metric.type)
            for sample in samples:
                family.add_sample(sample.name, dict(sample.labels), sample.value)
            yield family

    def describe(self) -> list[Metric]:
        return []  # what there is depends on how far the run is


@contextmanager
def serve(board: Board, spec: MetricsSpec, announcement: Path | None, log: Callable[[str], None]) -> Iterator[None]:
    """Serve a board's metrics meanwhile, and say so in a file for Prometheus' file discovery.

    Metrics never stop a run: what goes wrong is one line.

    Args:
        board: The metrics.
        spec: Section `metrics`; without a port nothing is served.
        announcement: The file, which is removed again; None: none, for Prometheus reads no object store.
        log: Gets a line for the user.
    """
    if spec.port is None:
        yield
        return
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(board))
    ports = range(FIRST_PORT, FIRST_PORT + _PORTS) if spec.port == "auto" else [spec.port]
    server, problem = None, Exception()
    for port in ports:
        try:
            server, thread = start_http_server(port, spec.host, registry)
            break
        except (OSError, ValueError) as error:  # taken, no such address, or no address at all
            problem = error
            if getattr(error, "errno", None) != errno.EADDRINUSE:
                break
    if server is None:
        asked = f"{ports[0]} to {ports[-1]}" if len(ports) > 1 else str(ports[0])
        log(f"no metrics: cannot listen on {spec.host}, port {asked} ({problem}); see `metrics.port`")
        yield
        return
    try:
        log(f"metrics: http://{_address(spec.host)}:{server.server_port}/metrics")
        if announcement is not None:
            _announce(announcement, f"{_address(spec.host)}:{server.server_port}", log)
        yield
    finally:
        if announcement is not None:
            with suppress(OSError):  # it may never have been there
                announcement.unlink()
        server.shutdown()
        server.server_close()
        thread.join()


def _address(host: str) -> str:
    """Return how others reach an address; one that stands for all of them is this machine's name."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _announce(file: Path, target: str, log: Callable[[str], None]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps([{"targets": [target]}]).encode())
    except (OSError, StorageError) as error:
        log(f"{file} cannot be written ({error}): Prometheus will not find the metrics by itself")
