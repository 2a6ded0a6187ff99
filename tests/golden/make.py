"""Make golden runs and golden draws with the present code; `tests/test_golden.py` opens them for ever after.

`python -m tests.golden.make format-2`, in the root of the repository, trains `tests/golden/format-2/job.yaml` twice:
`finished/` to its end, `half/` until a step in mid-epoch. To be run only when a format number is raised, in a new
folder with a copy of the job: the runs of earlier formats stay as they are, and a folder that has runs is refused.

`python -m tests.golden.make draws` writes `tests/golden/draws.json` anew: when an operation was added, or when what an
old seed means was changed on purpose, which needs a line in CHANGELOG.md.
"""

import contextlib
import hashlib
import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distaug import draws
from distaug.augment import Augment
from distaug.augment.geometry import crop, hflip
from distaug.augment.mix import cutmix_weights, soft_targets
from distaug.errors import InterruptedRunError
from distaug.spec.augment import OpSpec
from distaug.spec.load import load_job
from distaug.store import records
from distaug.store.rundir import RunDir
from distaug.train import watch
from distaug.train.local import train
from tests.train.jobs import Watcher

HERE = Path(__file__).resolve().parent
STOP_AFTER = 31
"""Steps of the half-finished run: 20 are an epoch, and the saved momentum, sums and averages must matter."""


def make_runs(folder: Path) -> None:
    """Train the folder's job to its end and half-way."""
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        train(load_job(folder / "job.yaml", name="finished"))
        watch._LOOK_EVERY_S = 0.0  # A whole run takes little longer than the usual time between looks.
        watcher = Watcher()
        watcher.stop_after = STOP_AFTER
        with contextlib.suppress(InterruptedRunError):
            train(load_job(folder / "job.yaml", name="half"), watcher)
        for name in ("finished", "half"):
            run = RunDir("runs", name)
            _forget_when_and_where(run)
            shutil.copytree(run.root, folder / name)


def _forget_when_and_where(run: RunDir) -> None:
    """Take the host's name and the dates out of a run; its durations stay."""
    run.lock_file.unlink()
    history = records.read(run.history_file)
    run.history_file.unlink()
    for record in history:
        records.append(run.history_file, replace(record, finished_at="1970-01-01T00:00:00+00:00"))
    attempts = [json.loads(line) for line in run.attempts_file.read_text().splitlines()]
    began = attempts[0]["started_at"]
    for attempt in attempts:
        for key in attempt.keys() & {"started_at", "ended_at"}:
            attempt[key] -= began
    run.attempts_file.write_text("".join(json.dumps(attempt) + "\n" for attempt in attempts))


# Eight pictures of 8x8 pixels, made without any generator of random numbers.
SIDE, CLASSES = 8, 10
PICTURES = (torch.arange(8 * 3 * SIDE * SIDE) * 7919 % 251).to(torch.uint8).view(8, 3, SIDE, SIDE)
LABELS = torch.arange(8) * 3 % CLASSES
IDS = torch.tensor([0, 1, 2, 77, 1234, 49_999, 2**32 + 5, 2**62])
COORDINATES = [(0, 0, "crop.0", 0), (1, 0, "crop.0", 0), (7, 199, "flip.1", 0), (2**62, 3, "mix.sample", 4)]
"""(seed, epoch, operation, draw)."""


def exact() -> dict[str, str]:
    """Return the sha256 of what has the same bits on every machine: integers, and floats that are rounded once."""
    ramp = torch.arange(8) / 8
    found: dict[str, Tensor] = {}
    for seed, epoch, operation, draw in COORDINATES:
        place = f"seed {seed}, epoch {epoch}, {operation}, draw {draw}"
        found[f"bits: {place}"] = draws.bits(seed, epoch, IDS, operation, draw)
        found[f"uniform: {place}"] = draws.uniform(seed, epoch, IDS, operation, draw)
    for seed, epoch, n in ((0, 0, 1000), (0, 1, 1000), (2**62, 199, 45_000)):
        found[f"permutation: seed {seed}, epoch {epoch}, {n}"] = draws.permutation(seed, epoch, n)
    seeds = [draws.torch_seed(s, e, t, k) for s in (0, 2**62) for e in (0, 9) for t in (0, 390) for k in (0, 3)]
    found["torch_seed"] = torch.tensor(seeds)
    for mode in ("zero", "reflect"):
        found[f"crop: {mode}, given places"] = crop(PICTURES, torch.arange(8) % 5, torch.arange(8) * 2 % 5, 2, mode)
        found[f"crop: {mode}"] = _augment({"crop": {"padding": 2, "mode": mode}})[0]
    found["flip: given pictures"] = hflip(PICTURES, torch.arange(8) % 3 == 0)
    found["flip"] = _augment({"flip": {"p": 0.5}})[0]
    found["crop, then flip, normalised"] = _augment(
        {"crop": {}}, {"flip": {}}, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616)
    )[0]
    for name in OpSpec.model_fields:
        if name not in ("crop", "flip"):
            # The chains of AugMix may turn a last bit of bilinear weights into another level.
            found[name] = _augment({name: {"interpolation": "nearest"} if name == "augmix" else {}})[0]
    found["soft targets"] = soft_targets(LABELS, CLASSES, 0.1)
    found["cutmix: given boxes"] = cutmix_weights(ramp, ramp, 1 - ramp / 2 - 0.25, SIDE, SIDE)
    for mode in ("batch", "pair", "sample"):
        found[f"cutmix: {mode}"] = _augment(mix={"cutmix": {"alpha": 1.0}, "mode": mode})[0]
    return {name: hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest() for name, tensor in found.items()}


def close() -> dict[str, list[float]]:
    """Return some values of what may differ in its last bits: powers and sums (Beta table), fused multiply-adds."""
    found = {f"beta: alpha {alpha}": draws.beta(torch.arange(16) / 16, alpha) for alpha in (0.2, 0.4, 1.0, 8.0)}
    both = {"mixup": {"alpha": 0.2}, "cutmix": {"alpha": 1.0}, "mode": "sample", "probability": 0.75}
    mixes: dict[str, dict[str, Any]] = {
        f"mixup: {mode}": {"mixup": {"alpha": 0.4}, "mode": mode} for mode in ("batch", "pair", "sample")
    }
    for name, mix in {**mixes, "cutmix": {"cutmix": {"alpha": 1.0}, "mode": "sample"}, "both": both}.items():
        images, targets = _augment(mix=mix)
        # One pixel in 97 (no divisor of a row's length) of all pictures, and the mass that stayed with the label.
        found[f"{name}, pixels"] = images.flatten()[::97]
        found[f"{name}, targets"] = targets.gather(1, LABELS[:, None])[:, 0]
    return {name: tensor.tolist() for name, tensor in found.items()}


def _augment(*operations: dict[str, Any], **options: Any) -> tuple[Tensor, Tensor]:
    augment = Augment({"ops": list(operations)}, SIDE, CLASSES, label_smoothing=0.1, seed=11, **options)
    return augment(PICTURES, LABELS, IDS, epoch=3, step=17, shard=1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:] == ["draws"]:
        # Nine digits name a float32.
        lines = {name: " ".join(f"{value:.9g}" for value in values) for name, values in close().items()}
        (HERE / "draws.json").write_text(json.dumps({"exact": exact(), "close": lines}, indent=1) + "\n")
    else:
        make_runs(HERE / sys.argv[1])
