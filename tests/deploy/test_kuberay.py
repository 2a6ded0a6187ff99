"""What is given to the Prometheus operator and to Grafana's sidecar is the same as elsewhere."""

import json
import re
import shutil
import subprocess
from textwrap import indent
from typing import Any

import pytest
import yaml

from tests.deploy.queries import DASHBOARDS, DEPLOY, RULES

KUBERAY = DEPLOY / "kuberay"


def snake(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: "_" + letter.group().lower(), name)


def load(name: str) -> Any:
    return yaml.safe_load((KUBERAY / name).read_text())


def test_the_pod_monitor_relabels_as_the_configuration_does() -> None:
    (endpoint,) = load("podmonitor.yaml")["spec"]["podMetricsEndpoints"]
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (scrape,) = [job for job in config["scrape_configs"] if job["job_name"] == "distaug-ray"]
    ours = [{snake(key): value for key, value in step.items()} for step in endpoint["metricRelabelings"]]
    assert ours == scrape["metric_relabel_configs"]
    assert [{snake(key): value for key, value in step.items()} for step in endpoint["relabelings"]] == [
        step for step in scrape["relabel_configs"] if step.get("target_label") == "job"
    ]
    assert endpoint["port"] == "metrics"
    assert endpoint["interval"] == config["global"]["scrape_interval"]


def test_the_operator_gets_the_same_rules() -> None:
    head, _, below = (KUBERAY / "prometheusrule.yaml").read_text().partition("\nspec:\n")
    assert yaml.safe_load(head)["kind"] == "PrometheusRule"
    assert below == indent(RULES.read_text(), "  "), "after `spec:` put what sed 's/^./  &/' makes of rules.yml"


def test_the_dashboards_carry_the_label_that_the_sidecar_looks_for() -> None:
    made = yaml.safe_load((DEPLOY / "grafana" / "kustomization.yaml").read_text())
    assert made["generatorOptions"]["labels"] == {"grafana_dashboard": "1"}
    (generator,) = made["configMapGenerator"]
    assert {DEPLOY / "grafana" / file for file in generator["files"]} == set(DASHBOARDS)


def test_the_sidecar_gets_the_same_dashboards() -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    made = subprocess.run([kubectl, "kustomize", KUBERAY], check=True, capture_output=True, text=True, timeout=60)
    parts = {part["kind"]: part for part in yaml.safe_load_all(made.stdout)}
    assert parts.keys() == {"PodMonitor", "PrometheusRule", "ConfigMap"}
    assert parts["ConfigMap"]["metadata"]["labels"] == {"grafana_dashboard": "1"}
    shown = {name: json.loads(text) for name, text in parts["ConfigMap"]["data"].items()}
    assert shown == {file.name: json.loads(file.read_text()) for file in DASHBOARDS}
