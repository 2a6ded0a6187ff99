"""The dashboards: what the script writes, nothing that Grafana does not know, every metric, and no other."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from distaug.telemetry.catalog import CATALOG, STATES
from tests.deploy.queries import DASHBOARDS, DEPLOY, expressions, metrics, panels

GRAFANA = DEPLOY / "grafana"
each = pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)


def test_they_are_what_the_script_writes(tmp_path: Path) -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="grafana-foundation-sdk is not installed: make setup")
    subprocess.run([sys.executable, GRAFANA / "build.py", tmp_path], check=True, timeout=60)
    written = {file.name: file.read_text() for file in tmp_path.iterdir()}
    kept = {file.name: file.read_text() for file in DASHBOARDS}
    assert written == kept, "run: python deploy/grafana/build.py"


@each
def test_grafana_knows_every_key(file: Path) -> None:
    schema = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder").JSONEncoder
    # Panels, targets and field options of these kinds are read into their own classes.
    plugins = pytest.importorskip("grafana_foundation_sdk.cog.plugins")
    plugins.register_default_plugins()
    before = json.loads(file.read_text())
    after = json.loads(json.dumps(schema.Dashboard.from_json(before), cls=encoder))
    assert after == before


@each
def test_it_shows_nothing_that_is_not_in_the_catalogue(file: Path) -> None:
    for place, expression in expressions(file).items():
        # What Prometheus itself knows of alerts and targets.
        assert metrics(expression) or expression.startswith(("count(ALERTS{", "count(up{")), place


def test_together_they_show_every_metric() -> None:
    shown = set().union(*(metrics(query) for file in DASHBOARDS for query in expressions(file).values()))
    assert shown == {metric.name for metric in CATALOG}


@each
def test_every_panel_says_what_it_is(file: Path) -> None:
    page = json.loads(file.read_text())
    assert page["uid"] == f"distaug-{file.stem}" and page["schemaVersion"] >= 39
    titles = [panel["title"] for panel in panels(file)]
    assert len(set(titles)) == len(titles)
    for panel in panels(file):
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["description"].endswith(".")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert "unit" in defaults or panel["type"] in ("state-timeline", "table") or "name" in str(panel["options"])
        if defaults.get("unit") == "percentunit" and panel["type"] == "timeseries" and "stacking" not in str(defaults):
            assert (defaults["min"], defaults["max"]) == (0, 1), panel["title"]


@each
def test_panels_lie_side_by_side(file: Path) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in json.loads(file.read_text())["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def limits(title: str, file: str) -> set[float]:
    (panel,) = [panel for panel in panels(GRAFANA / "dashboards" / file) if panel["title"] == title]
    return {step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"] if step["value"]}


def test_the_limits_are_drawn() -> None:
    assert limits("Share of the step time", "run.json") == limits("Waiting for data", "cluster.json") == {0.3}
    assert limits("Fullest GPU", "run.json") == {0.9}


def test_every_state_has_a_colour() -> None:
    (panel,) = [panel for panel in panels(GRAFANA / "dashboards" / "run.json") if panel["title"] == "State"]
    assert [override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]] == list(STATES)


@each
def test_its_variables_exist(file: Path) -> None:
    page = json.loads(file.read_text())
    names = {variable["name"] for variable in page["templating"]["list"]}
    assert names == ({"datasource", "run", "rank"} if file.stem == "run" else {"datasource", "run"})
    for variable in page["templating"]["list"]:
        if variable["type"] == "query":
            assert metrics(variable["query"]["query"])


def provisioned(kind: str) -> Any:
    (file,) = (GRAFANA / "provisioning" / kind).glob("*.yaml")
    return yaml.safe_load(file.read_text())


def test_grafana_is_told_of_prometheus_and_the_dashboards() -> None:
    (source,) = provisioned("datasources")["datasources"]
    assert (source["type"], source["uid"], source["isDefault"]) == ("prometheus", "prometheus", True)
    (provider,) = provisioned("dashboards")["providers"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
