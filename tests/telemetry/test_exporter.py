"""The endpoint as Prometheus sees it: what it serves, on which port, and that nothing stops a run."""

import json
import socket
import threading
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from distaug.spec.metrics import MetricsSpec
from distaug.telemetry.board import Board
from distaug.telemetry.catalog import CATALOG
from distaug.telemetry.exporter import FIRST_PORT, serve
from tests.telemetry.test_board import full_board


def scrape(announcement: Path) -> str:
    ((target,),) = [entry["targets"] for entry in json.loads(announcement.read_text())]
    with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_prometheus_reads_every_metric_with_its_type_and_help(tmp_path: Path) -> None:
    board, file = full_board(), tmp_path / "targets" / "mine.json"
    with serve(board, MetricsSpec(), file, lambda line: None):
        families = {family.name: family for family in text_string_to_metric_families(scrape(file))}
    for metric in CATALOG:
        family = families.pop(metric.name.removesuffix("_total"))
        assert (family.type, family.documentation) == (metric.type, metric.help)
        assert family.samples and all(sample.labels["run"] == "mine" for sample in family.samples)
    assert not families, "what is served and not in the catalogue"


def test_two_runs_take_two_ports_and_are_told_apart(tmp_path: Path) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    with (
        serve(Board("one"), MetricsSpec(), one, lambda line: None),
        serve(Board("other"), MetricsSpec(), other, lambda line: None),
    ):
        assert one.read_text() != other.read_text()
        assert 'run="one"' in scrape(one) and 'run="other"' not in scrape(one)
        assert 'run="other"' in scrape(other)
    assert not one.exists() and not other.exists(), "Prometheus must not look for a run that is over"


def test_a_busy_port_is_a_line_and_not_an_end(tmp_path: Path) -> None:
    lines: list[str] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with serve(Board("mine"), MetricsSpec(port=port), tmp_path / "mine.json", lines.append):
            assert not (tmp_path / "mine.json").exists()
    assert len(lines) == 1 and str(port) in lines[0] and "metrics.port" in lines[0]


@pytest.mark.parametrize(
    "spec", [MetricsSpec(host=host) for host in ("192.0.2.1", "not a host", ".nothing")], ids=["ip", "name", "none"]
)
def test_an_address_of_another_machine_is_a_line_too(tmp_path: Path, spec: MetricsSpec) -> None:
    lines: list[str] = []
    with serve(Board("mine"), spec, tmp_path / "mine.json", lines.append):
        pass
    assert len(lines) == 1 and spec.host in lines[0]


def test_without_a_port_nothing_listens(tmp_path: Path) -> None:
    before = threading.active_count()
    with serve(Board("mine"), MetricsSpec(port=None), tmp_path / "mine.json", lambda line: None):
        assert threading.active_count() == before and not (tmp_path / "mine.json").exists()


def test_it_listens_on_loopback_unless_told_otherwise(tmp_path: Path) -> None:
    with serve(Board("mine"), MetricsSpec(), tmp_path / "mine.json", lambda line: None):
        assert json.loads((tmp_path / "mine.json").read_text())[0]["targets"][0].startswith("127.0.0.1:9")
        assert FIRST_PORT == 9108


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "targets").write_text("a file")
    lines: list[str] = []
    with serve(Board("mine"), MetricsSpec(), tmp_path / "targets" / "mine.json", lines.append):
        pass
    assert len(lines) == 2 and "cannot be written" in lines[1]


def test_an_address_with_colons_is_announced_in_brackets(tmp_path: Path) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with serve(Board("mine"), MetricsSpec(host="::1"), tmp_path / "mine.json", lambda line: None):
        if (tmp_path / "mine.json").exists():  # a container may have none
            assert 'run="mine"' in scrape(tmp_path / "mine.json")
