"""What the compression stages do to the model of a finished run, each on a copy of the run.

    python bench/compression.py RUN                         # int8; channels 0.3 and int8; 50 % magnitude
    python bench/compression.py RUN --only int8 --finetune-epochs 3

Kept in bench/results/compression.json, with the targets beside what was measured.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import yaml
from overhead import keep

from distaug.cluster.fit import compress
from distaug.errors import ArtifactError
from distaug.store.records import Result
from distaug.store.rundir import RunDir
from distaug.store.stages import StageRow, Stages

SECTIONS: dict[str, list[dict[str, Any]]] = {
    "int8": [{"int8": {}}],
    "channels and int8": [{"channels": {"ratio": 0.3}}, {"int8": {}}],
    "magnitude": [{"magnitude": {"targets": [0.5]}}],
}
# Bytes over the uncompressed file's (at most), times as fast (at least), points of test accuracy lost (at most).
TARGETS = {"int8": (0.26, 2.5, 0.5), "channels and int8": (0.13, 5.0, 1.0), "magnitude": (None, None, 1.0)}


def figures(row: StageRow, base: StageRow) -> dict[str, Any]:
    accuracies = row.test or row.val, base.test or base.val
    return {
        "bytes": row.bytes,
        "bytes_over_fp32": row.bytes / base.bytes,
        "zlib_over_fp32": row.zlib_bytes / base.zlib_bytes,
        "macs_over_fp32": row.macs / base.macs,
        "zeros": 1 - row.nonzeros / row.parameters,
        "latency": row.latency,
        "val_top1": row.val["top1"],
        "test_top1": accuracies[0]["top1"],
        "test_points_lost": 100 * (accuracies[1]["top1"] - accuracies[0]["top1"]),
        "agreement": row.agreement,
        "logit_snr_db": row.logit_snr_db,
        "integer_convolutions": row.integer_convolutions,
        "seconds": row.seconds,
    }


def measure(run: RunDir, name: str, epochs: int | None) -> dict[str, Any]:
    """Compress a copy of the run; return the figures of each file."""
    copy = RunDir(run.runs_dir, f"{run.name}-{name.replace(' ', '-')}")
    shutil.rmtree(copy.root, ignore_errors=True)
    shutil.copytree(run.root, copy.root, ignore=shutil.ignore_patterns("compressed", "checkpoints"))
    stages = [
        {kind: settings | ({} if kind == "int8" or epochs is None else {"finetune_epochs": epochs})}
        for stage in SECTIONS[name]
        for kind, settings in stage.items()
    ]
    job = yaml.safe_load(copy.job_file.read_text())
    job["compress"] = {"stages": stages, "gate": {"max_accuracy_drop": 5.0}}
    copy.job_file.write_text(yaml.safe_dump(job, sort_keys=False))
    try:
        compress(str(copy.root))
    except ArtifactError as error:
        print(error)
    found = Stages.read(copy.compressed)
    assert found is not None
    rows = {row.name: figures(row, found.rows[0]) for row in found.rows}
    last, (size, speed, lost) = list(rows.values())[-1], TARGETS[name]
    speedup = last["latency"]["1"]["speedup"]
    print(
        f"{name}: {last['bytes_over_fp32']:.3f} of the bytes"
        + (f" (at most {size})" if size else "")
        + f", {speedup:.2f} × as fast"
        + (f" (at least {speed:g})" if speed else "")
        + f", {last['test_points_lost']:+.2f} points of test accuracy lost (at most {lost:g})"
    )
    return {"section": job["compress"], "files": rows, "engine": found.rows[-1].engine}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--only", choices=SECTIONS)
    parser.add_argument("--finetune-epochs", type=int)
    asked = parser.parse_args()
    run = RunDir.find(Path(asked.run))
    result = Result.read(run.result_file)
    for name in [asked.only] if asked.only else SECTIONS:
        job = run.load_job()
        entry = measure(run, name, asked.finetune_epochs)
        about = {"model": job.model.name, "data": job.data.source, "epochs": result.epochs, "test": result.test["top1"]}
        keep("compression", f"{job.data.source} {job.model.name} {name}", about | entry)


if __name__ == "__main__":
    main()
