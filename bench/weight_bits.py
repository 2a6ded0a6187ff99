"""Why int8 uses 7 of the 8 bits of a weight: what either comes to in exact arithmetic, and on this machine's kernels.

    python bench/weight_bits.py RUN …      runs whose data is at hand; kept in bench/results/weight_bits.json

x86 processors without VNNI add two 8-bit products in 16 bits, which 8 bits of weights overflow.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from overhead import keep

from distaug import draws
from distaug.compress import measure, quantize
from distaug.compress.export import export
from distaug.data.open import DataSet, open_data
from distaug.model import registry
from distaug.store.rundir import RunDir

Logits = npt.NDArray[np.floating]
CALIBRATION, BATCH = 512, 250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    for name in parser.parse_args().runs:
        run = RunDir.find(name)
        found = compare(run)
        keep("weight_bits", run.name, found)
        print(run.name, found)


def compare(run: RunDir) -> dict[str, Any]:
    """Return test accuracy, agreement with fp32, and signal to noise of the logits, of each file and arithmetic."""
    job = run.load_job()
    data = open_data(job.data, final_fit=job.train.final_fit, log=lambda line: None)
    module, card = registry.load(run.model)
    pictures = data.train.pictures(draws.permutation(job.seed, 0, len(data.train))[:CALIBRATION]).numpy()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "fp32.onnx"
        export(module.float().eval(), card, source, {})
        reference = logits(source, data)
        found: dict[str, Any] = {"fp32": {"top1": accuracy(reference, data)}}
        for bits in (8, 7):
            file = Path(folder) / f"{bits}.onnx"
            quantize.int8(source, file, pictures, 99.99, {}, weight_bits=bits)
            for exact in (True, False):
                answers = logits(file, data, exact=exact)
                found[f"{bits} bits, {'exact arithmetic' if exact else 'kernels of this machine'}"] = {
                    "top1": accuracy(answers, data),
                    "agreement": round(measure.agreement(answers, reference), 4),
                    "logit_snr_db": round(measure.logit_snr_db(answers, reference) or 0, 1),
                }
    return found


def logits(file: Path, data: DataSet, *, exact: bool = False) -> Logits:
    """Return (N, K) on the test set; `exact` multiplies the numbers that the integers stand for."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    assert data.test is not None
    parts = torch.arange(len(data.test)).split(BATCH)
    return np.concatenate([session.run(None, {"image": data.test.pictures(ids).numpy()})[0] for ids in parts])


def accuracy(answers: Logits, data: DataSet) -> float:
    assert data.test is not None
    return round(float((answers.argmax(1) == data.test.labels.numpy()).mean()), 4)


if __name__ == "__main__":
    main()
