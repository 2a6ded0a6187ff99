"""Ray head nodes for tests: processes of their own, all ports on loopback."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.nodes import free_ports

START_WITHIN_S = 60.0
_PORTS = (
    "dashboard-port",
    "port",
    "metrics-export-port",
    "dashboard-agent-listen-port",
    "ray-client-server-port",
    "object-manager-port",
    "node-manager-port",
)


@contextmanager
def head(folder: Path, *, ray: Path | None = None, **environment: str) -> Iterator[str]:
    """Start a head node and yield the address of its dashboard; it is gone afterwards.

    Args:
        folder: Gets its output.
        ray: Ray's own folder, which is gone afterwards; by default a new one.
        environment: Variables on top of this process's.
    """
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    # Short, because Ray puts sockets below it, whose paths may have 107 bytes.
    temporary = ray or Path(tempfile.mkdtemp(prefix="distaug-head-", dir="/tmp"))
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--temp-dir={temporary}"]
    command += ["--min-worker-port=20000", "--max-worker-port=20999", "--disable-usage-stats"]
    # Jobs run `python`, which is that of the active environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (folder / "head.txt").open("w") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PATH": path} | environment,
            start_new_session=True,
        )
    try:
        _wait(process, ports["dashboard-port"], folder / "head.txt")
        yield f"http://127.0.0.1:{ports['dashboard-port']}"
    finally:
        # Told to end, a node takes 15 s for it.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(temporary, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], port: int, output: Path) -> None:
    until = time.monotonic() + START_WITHIN_S
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(output.read_text())
