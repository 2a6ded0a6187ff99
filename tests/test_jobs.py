"""The shipped job files are valid and train, shrunk."""

from pathlib import Path

import pytest

from distaug.spec.load import load_job
from distaug.train.local import train

FOLDER = Path(__file__).parents[1] / "jobs"
# Those that are studies are resolved in tests/study/test_plan.py.
JOBS = sorted(path for path in FOLDER.glob("*.yaml") if not path.name.startswith("study_"))
SMALL = [
    "data={source: digits, test_fraction: 0.2, per_class: 16}",
    "train.epochs=1",
    "train.global_batch=32",
    "mix.off_after_epoch=null",
    "train.schedule.warmup_epochs=0",
    "stop.start_epoch=auto",
    "cluster={gpus_per_worker: 0, cpus_per_worker: 1}",
]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_job_file_trains(path: Path, tmp_path: Path) -> None:
    result = train(load_job(path, [*SMALL, f"runs_dir={tmp_path}"]))
    assert result.state == "finished" and result.test is not None
