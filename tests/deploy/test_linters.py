"""The image, the compose files, the scripts and all YAML, as the tools of their trades see them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.queries import DEPLOY

ROOT = DEPLOY.parent
COMPOSE = ("deploy/compose.yaml", "deploy/compose.gpu.yaml")
COMMANDS = {
    "hadolint": ["hadolint", "Dockerfile"],
    "shellcheck": ["shellcheck", "deploy/cluster_test.sh", ".ci/run"],
    "yamllint": ["yamllint", "--strict", "deploy", "jobs"],
    "compose-schema": ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", *COMPOSE],
}

pytestmark = pytest.mark.deploy


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_linters_find_nothing(command: list[str]) -> None:
    tool = shutil.which(command[0], path=str(Path(sys.executable).parent))
    assert tool, f"{command[0]} is not installed: pip install '.[dev]'"
    done = subprocess.run([tool, *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def services() -> dict[str, Any]:
    # `<<` is a key of YAML 1.1, which PyYAML and Docker read alike.
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"])


def test_nothing_listens_beyond_this_machine() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", services())
def test_each_container_is_limited_and_watched(name: str) -> None:
    service = services()[name]
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
    assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    assert service["healthcheck"]["test"]


def test_head_and_workers_want_a_token_that_is_in_no_file() -> None:
    for name in ("head", "worker"):
        environment = services()[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")
    assert ".env" in (DEPLOY / ".gitignore").read_text().split()


def test_prometheus_and_grafana_find_what_the_configuration_names() -> None:
    mounts = {
        name: {re.sub(r".*:(/[^:]+).*", r"\1", mount) for mount in service.get("volumes", [])}
        for name, service in services().items()
    }
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    files = [file for job in config["scrape_configs"] for sd in job["file_sd_configs"] for file in sd["files"]]
    for file in files:
        inside = file.removeprefix("../..")  # of /etc/prometheus
        assert any(inside.startswith(f"{mount}/") for mount in mounts["prometheus"]), file
    assert {"/runs", "/tmp"} <= mounts["head"], "what Prometheus reads is written by the head"
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/distaug.yaml").read_text())["providers"]
    assert provider["options"]["path"] in mounts["grafana"]


def test_the_image_builds_anywhere_and_a_change_of_code_keeps_its_libraries() -> None:
    text = (ROOT / "Dockerfile").read_text()
    libraries, _, rest = text.partition("AS package")
    assert "COPY distaug" not in libraries and "COPY distaug" in rest
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", text, re.M), (
        "a numeric user, by which Kubernetes knows it is not root"
    )
    assert "<<" not in text and "--mount" not in text and "--link" not in text, "builds without BuildKit too"


def test_the_image_is_made_of_nothing_but_the_package() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    assert {name for names in copied for name in names.split()} == allowed
