"""Run a job (or take up its finished run) and keep what it came to: bench/results/<name>.json.

python bench/accuracy.py jobs/digits.yaml
python bench/accuracy.py jobs/cifar10_cpu.yaml --set data.path=PATH
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from distaug.cluster.fit import run
from distaug.spec.job import to_dict
from distaug.spec.load import load_job
from distaug.store import records
from distaug.store.rundir import RunDir

RESULTS = Path(__file__).parent / "results"
CURVES = ("epoch", "train_loss", "train_top1", "val_loss", "top1", "raw_top1", "images_per_second", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="PATH=VALUE")
    arguments = parser.parse_args()
    job = load_job(arguments.job, arguments.sets)
    result = run(job).to_dict()
    folder = RunDir(job.runs_dir, job.name)
    history = [asdict(record) for record in records.read(folder.history_file)]
    stored = to_dict(folder.load_job())
    for private in ("runs_dir", "format"):
        stored.pop(private)
    stored["data"]["path"] = None  # Where the data lies on one machine is nobody else's business.
    result.pop("data", None)
    kept = {"job": stored, "result": result, "curves": [{key: record[key] for key in CURVES} for record in history]}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{job.name}.json"
    path.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"{path}: test top1 {100 * result['test']['top1']:.2f} %, {result['seconds']:.0f} s")


if __name__ == "__main__":
    main()
