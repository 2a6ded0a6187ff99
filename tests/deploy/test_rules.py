"""Prometheus' own tool on its configuration, rules and the rules' tests."""

import shutil
import subprocess

import pytest
import yaml

from tests.deploy.queries import DEPLOY, RULES, metrics, rules

PROMETHEUS = DEPLOY / "prometheus"


def promtool(*arguments: str) -> str:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    done = subprocess.run(
        [tool, *arguments], cwd=PROMETHEUS, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.deploy
@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")],
    ids=" ".join,
)
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    assert "SUCCESS" in promtool(*arguments)


@pytest.mark.parametrize("kind", ["record", "alert"])
def test_every_rule_has_a_test(kind: str) -> None:
    tested = (PROMETHEUS / "rules_test.yml").read_text()
    for name in rules(kind):
        assert f"alertname: {name}\n" in tested if kind == "alert" else f"expr: {name}\n" in tested, name


@pytest.mark.parametrize(("name", "expression"), [*rules("record").items(), *rules("alert").items()])
def test_a_rule_reads_only_what_there_is(name: str, expression: str) -> None:
    assert metrics(expression)


def test_an_alert_says_which_run_and_what_to_do() -> None:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                told = rule["annotations"]
                assert "$labels.run" in told["summary"] and len(told["description"]) > 40
                assert rule["labels"]["severity"] in ("warning", "critical")
