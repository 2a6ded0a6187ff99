"""Every PromQL expression that is shipped, from the dashboards and the rules."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from distaug.telemetry.catalog import CATALOG

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RULES = DEPLOY / "prometheus" / "rules.yml"

_NAME = re.compile(r"\b(?:\w+:)?distaug_\w+(?::\w+)?")
_SERIES = {
    metric.name + suffix: metric.name
    for metric in CATALOG
    for suffix in (("_bucket", "_sum", "_count") if metric.type == "histogram" else ("",))
}


def rules(kind: str) -> dict[str, str]:
    """Return {name: expression} of the rules of a kind, `record` or `alert`."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule[kind]: rule["expr"] for group in groups for rule in group["rules"] if kind in rule}


def panels(file: Path) -> list[dict[str, Any]]:
    """Return the panels of a dashboard that show something."""
    return [panel for panel in json.loads(file.read_text())["panels"] if panel["type"] != "row"]


def expressions(file: Path, run: str = "a") -> dict[str, str]:
    """Return {panel: legend: expression} of a dashboard, its variables replaced as for one run with all its ranks."""
    found = {}
    for panel in panels(file):
        for target in panel["targets"]:
            expression = target["expr"].replace("$run", run).replace("$rank", ".*")
            found[f"{file.stem}: {panel['title']}: {target['refId']}"] = expression
    return found


def series(expression: str) -> set[str]:
    """Return the names of the series that an expression reads."""
    return set(_NAME.findall(expression))


def metrics(expression: str) -> set[str]:
    """Return the metrics that an expression is made of, those of the recorded ones included.

    Raises:
        KeyError: It reads what neither the catalogue nor a rule has.
    """
    recorded = rules("record")
    found: set[str] = set()
    for name in series(expression):
        found |= metrics(recorded[name]) if ":" in name else {_SERIES[name]}
    return found
