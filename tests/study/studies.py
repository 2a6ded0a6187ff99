"""Studies whose runs have ended, without the trainings."""

import hashlib
from pathlib import Path
from typing import Any

from distaug.store import records
from distaug.store.records import EpochRecord, Result
from distaug.store.rundir import RunDir
from distaug.study.load import parse_study
from distaug.study.plan import Plan, Run
from tests.report.runs import record, result_of

BASE = """\
base:
  data: {source: digits}
  model: {name: smallnet}
  train: {epochs: 4}
"""


def plan_of(folder: Path, text: str, *, base: str = BASE) -> Plan:
    """Return a study below a folder."""
    return parse_study(f"studies_dir: {folder}\n{base}{text}", "study.yaml")


def train(
    run: Run,
    top1: float = 0.6,
    *,
    twin: str = "",
    history: list[EpochRecord] | None = None,
    ended: bool = True,
    **fields: Any,
) -> None:
    """Leave what a run leaves; `twin` names networks that are the same, else no two are."""
    folder = RunDir(run.job.runs_dir, run.job.name)
    folder.create()
    folder.save_job(run.job)
    name = f"{twin}-{run.seed}" if twin else run.job.name
    digest = hashlib.sha256(name.encode()).hexdigest()
    for epoch in [record(k) for k in range(4)] if history is None else history:
        records.append(folder.history_file, epoch)
    if ended:
        result = result_of(run.job.name)
        Result(
            **vars(result) | {"test": {**(result.test or {}), "top1": top1}, "weights_digest": digest} | fields
        ).write(folder.result_file)


def train_all(plan: Plan, top1: dict[str, list[float]], **fields: Any) -> None:
    """Leave what the runs of some variants leave, one for each accuracy, in the order of the seeds."""
    for variant, values in top1.items():
        runs = [run for run in plan.runs if run.variant == variant]
        for run, value in zip(runs, values, strict=False):
            train(run, value, **fields)


def compressed(name: str, top1: float | None, *, nonzeros: int = 1000, size: int = 4000, speedup: float = 1.0) -> Any:
    """Return the row of a compressed file as result.json has it; without an accuracy it was not judged."""
    return {
        "name": name,
        "parameters": 1000,
        "nonzeros": nonzeros,
        "macs": 7000,
        "bytes": size,
        "zlib_bytes": size // 2,
        "latency": {"1": {"speedup": speedup, "p50_ms": 2.0}},
        "val": {"top1": 0.5},
        "test": None if top1 is None else {"top1": top1},
        "passed": True,
    }
