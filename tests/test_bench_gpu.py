"""The script for a machine with one GPU, shrunk so that a CPU will do."""

import json
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import Any

from bench.gpu.__main__ import PARTS
from bench.gpu.shared import Bench
from distaug.train.device import usable_gpus

ROOT = Path(__file__).parents[1]
# A process for each part imports everything anew, for which two will do. The rest is run in this one; but for `ray`,
# since tests/cluster starts Ray often enough.
THROUGH_THE_COMMAND, HERE = ("sync", "pictures"), ("throughput", "worlds", "accuracy")


def test_every_part_of_the_gpu_script_measures_what_it_says(tmp_path: Path) -> None:
    parts = ",".join(THROUGH_THE_COMMAND)
    command = [sys.executable, "-m", "bench.gpu", "--shrink", "--parts", parts, "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in HERE:
        PARTS[part][0](Bench(None, tmp_path, tmp_path / "runs" / part, shrink=True, epochs=None, end=monotonic() + 540))
    kept: dict[str, Any] = {
        part: json.loads((tmp_path / f"gpu_{part}.json").read_text()) for part in THROUGH_THE_COMMAND + HERE
    }
    for entry in kept.values():
        assert entry["done"] and entry["shrunk"] and entry["machine"]["cores"] >= 1
        assert entry["machine"]["versions"].keys() == {"distaug", "torch", "python"}

    speed = kept["throughput"]
    measured = dict(speed["ways"])
    assert measured.keys() == {"bf16", "fp32", "tf32", "fp16", "stream", "exact"}
    if not usable_gpus():
        assert "needs an NVIDIA GPU" in measured.pop("tf32")["skipped"] and "skipped" in speed["compiled"]
    for one in measured.values():
        assert one["images_per_second"]["n"] == 2 and one["images_per_second"]["low"] > 0
        assert one["train_seconds"]["median"] > 0 and one["ratio_to_bf16"] > 0
    assert measured["bf16"]["ratio_to_bf16"] == 1

    same, epochs, steps = kept["worlds"]["on_the_cpu"], 2, 4
    assert kept["worlds"]["n"] == epochs * steps * kept["worlds"]["shards"]
    assert kept["worlds"]["worlds"].keys() == {"1", "2", "4"}
    for size, world in kept["worlds"]["worlds"].items():
        for way in ("exact", "fast"):
            assert {key: world[way][key] for key in same} == same, (size, way)
            assert world[way]["order_equal_to_cpu"] and world[way]["pixels_equal_to_cpu"]
            assert len(world[way]["weights"]) == 64, "all ranks end with the same weights"
        assert size == "1" or world["exact"]["weights_equal_to_world_1"]

    assert kept["pictures"]["share_of_a_step"]["share"] < 1
    assert all(rate["median"] > 0 for rate in kept["pictures"]["images_per_second"].values())

    length = kept["accuracy"]
    assert length["epochs_planned"] == length["epochs_asked"] == len(length["curves"]) == 2
    assert length["time_to"].keys() == {"85 %", "90 %", "94 %", "95 %"}
    assert 0 <= length["result"]["test"]["top1"] <= 1 and length["wall_seconds"] > 0
    assert length["job"]["data"]["path"] is None

    if not usable_gpus():
        assert "needs CUDA" in kept["sync"]["skipped"]
