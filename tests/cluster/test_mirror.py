"""What a real Ray makes of samples: names, labels, values that are not finite, and those that are shown no longer."""

import math
import time
import urllib.request

import pytest

from distaug.telemetry.board import Sample

pytestmark = pytest.mark.ray

PATIENCE_S = 30


def sample(name: str, value: float, **labels: str) -> Sample:
    return Sample(name, tuple(labels.items()), value)


def shown(port: int) -> dict[str, float]:
    """Return the values by name and rank, as a node's endpoint tells them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith("ray_distaug_")]
    found = {}
    for line in lines:
        series, value = line.rsplit(" ", 1)
        labels = dict(part.split("=", 1) for part in series.partition("{")[2].rstrip("}").split(","))
        assert labels["run"] == '"a"'
        found[series.partition("{")[0] + labels.get("rank", "").strip('"')] = float(value)
    return found


def test_ray_tells_what_is_shown_and_forgets_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ten times as often as by default.
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    import ray

    from distaug.cluster.mirror import Mirror

    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=100_000_000,
        _node_ip_address="127.0.0.1",
    )
    try:
        (port,) = {node["MetricsExportPort"] for node in ray.nodes()}
        mirror = Mirror()
        steady = [
            sample("distaug_steps_total", 12, run="a"),
            sample("distaug_step_seconds_bucket", 3, run="a", le="+Inf"),
            sample("distaug_rank_info", 1, run="a", rank="0"),
            sample("distaug_train_loss", math.nan, run="a"),
            sample("distaug_val_loss", math.inf, run="a"),
        ]
        expected = {"ray_distaug_steps_total": 12, "ray_distaug_step_seconds_bucket": 3, "ray_distaug_rank_info0": 1}

        def show_until(samples: list[Sample], values: dict[str, float]) -> None:
            limit = time.monotonic() + PATIENCE_S
            while time.monotonic() < limit:
                mirror.show(samples)
                time.sleep(0.2)
                try:
                    if (now := shown(port)) == values:
                        return
                except OSError:
                    now = {}
            raise AssertionError(now)

        show_until(
            [*steady, sample("distaug_rank_info", 1, run="a", rank="1")], expected | {"ray_distaug_rank_info1": 1}
        )
        # Rank 1 is lost, and a value goes down.
        steady[0] = sample("distaug_steps_total", 5, run="a")
        show_until(steady, expected | {"ray_distaug_steps_total": 5})
    finally:
        ray.shutdown()
