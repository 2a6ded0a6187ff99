"""The stages together: on real digits, in this process, with a gate that really refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distaug.cluster import fit
from distaug.compress import measure, stage
from distaug.compress.artifact import open_artifact
from distaug.errors import ArtifactError, DataError, InterruptedRunError, JobError
from distaug.model import registry
from distaug.spec.compress import CompressSpec
from distaug.spec.job import JobSpec
from distaug.store.checkpoint import weights_digest
from distaug.store.records import Result
from distaug.store.rundir import RunDir
from distaug.store.stages import Stages
from distaug.train.local import train
from tests.train.jobs import small_job

CHANNELS = {"channels": {"ratio": 0.25, "finetune_epochs": 1}}


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies are measured elsewhere."""
    monkeypatch.setattr(measure, "_SECONDS", 0.1)


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run on all digits that knows most of them."""
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("runs")
    changes: dict[str, Any] = {
        "data": {"per_class": None},
        "model": {"options": {"widths": [16, 16, 32]}},
        "train": {"epochs": 6, "shards": 2, "schedule": {"name": "one_cycle"}, "optimizer": {"lr": 0.2}},
        "mix": {},
        "augment": {},
    }
    job = JobSpec.model_validate(small_job(runs, "trained", **changes))
    assert train(job).test["top1"] > 0.9
    return RunDir(runs, "trained")


@pytest.fixture
def run(trained: RunDir, tmp_path: Path) -> RunDir:
    """The same run, not compressed yet; its model is not copied."""
    copy = RunDir(tmp_path, "copy")
    copy.root.mkdir()
    for path in (trained.job_file, trained.model, trained.result_file):
        (copy.root / path.name).symlink_to(path)
    return copy


def compress(run: RunDir, *stages: dict[str, Any], trains: Callable[[JobSpec], Result] = train, **gate: Any) -> Stages:
    section = CompressSpec.model_validate({"stages": list(stages), "gate": {"max_accuracy_drop": 20.0} | gate})
    job = run.load_job().model_copy(update={"compress": section})
    return stage.compress(job, run, trains, silent)


def test_each_stage_goes_on_from_the_one_before(run: RunDir) -> None:
    magnitude = {"magnitude": {"targets": [0.3, 0.5], "finetune_epochs": 1}}
    stages = compress(run, magnitude, CHANNELS, {"int8": {"calibration_images": 300}}, {"dynamic": {}})
    rows = {row.name: row for row in stages.rows}
    assert list(rows) == ["fp32", "magnitude-30", "magnitude-50", "channels", "int8", "dynamic"]
    assert stages.done and stages.artifact == "int8" and all(row.passed for row in stages.rows)
    folder = run.compressed
    assert (folder / "model.onnx").read_bytes() == (folder / "int8.onnx").read_bytes()
    # Half of what may be pruned, and no more; the channels that stay keep their zeros through the fine-tuning.
    module, card = registry.load(folder / "magnitude-50")
    prunable = [p for p in module.parameters() if p.ndim > 1 and p.requires_grad]
    zeros = sum(int((p == 0).sum()) for p in prunable) / sum(p.numel() for p in prunable)
    assert abs(zeros - 0.5) < 1e-3
    assert rows["channels"].nonzeros < 0.6 * rows["channels"].parameters
    assert rows["magnitude-50"].zlib_bytes < 0.75 * rows["fp32"].zlib_bytes
    assert rows["channels"].macs < 0.8 * rows["fp32"].macs and rows["channels"].bytes < 0.8 * rows["fp32"].bytes
    assert rows["int8"].bytes < rows["channels"].bytes
    # Where vectors hold 8 numbers and not 16, ONNX Runtime makes a norm of 8 channels a convolution too.
    assert rows["int8"].integer_convolutions == [7, 7] and rows["dynamic"].integer_convolutions in ([0, 7], [0, 8])
    assert [rows[name].against for name in ("channels", "int8", "dynamic")] == ["fp32", "channels", "channels"]
    assert rows["int8"].logit_snr_db is not None and rows["int8"].logit_snr_db > 10 and rows["int8"].layers
    # The numbers are those of the file itself.
    test = open_artifact(folder / "channels.onnx")
    assert test.metadata["stage"] == "channels" and test.metadata["weights_digest"] != stages.weights_digest
    for row in stages.rows:
        assert row.val["samples"] == 145 and row.test is not None and row.test["samples"] == 359
        assert row.drop == pytest.approx(100 * (rows["fp32"].val["top1"] - row.val["top1"]))
        assert set(row.latency) == {"1", "64"} and row.engine["threads"] == 1
    assert rows["int8"].engine["dtype"] == "int8" and Stages.read(folder) == stages
    assert not (folder / "finetune").exists()


def test_a_file_calibrated_on_noise_is_undone(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def noise(self: Any, count: int) -> Any:
        return np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)

    monkeypatch.setattr(stage._Compression, "_calibration", noise)
    with pytest.raises(ArtifactError, match="nothing passed the gate: int8: it decides as fp32 on") as caught:
        compress(run, {"int8": {}}, max_accuracy_drop=100.0)
    assert caught.value.exit_code == 6 and "signal to noise" in str(caught.value)
    stages = Stages.read(run.compressed)
    assert stages is not None and stages.done and stages.artifact is None and not stages.rows[1].passed
    assert not (run.compressed / "model.onnx").exists()


def test_an_undone_stage_leaves_no_trace_in_the_next(run: RunDir) -> None:
    ruin = {"channels": {"ratio": 0.7, "finetune_epochs": 0}}
    stages = compress(run, ruin, {"int8": {}}, max_accuracy_drop=5.0)
    _, channels, int8 = stages.rows
    assert not channels.passed and "points below" in channels.reason and channels.test is not None
    assert int8.passed and int8.against == "fp32" and stages.artifact == "int8"


@pytest.mark.parametrize("gate", [{"min_speedup": 1000.0}, {"max_bytes": 10}])
def test_the_last_file_must_be_fast_and_small_enough(run: RunDir, gate: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=rf"the gate refuses int8.onnx: .* {next(iter(gate))} is"):
        compress(run, {"int8": {}}, **gate)
    stages = Stages.read(run.compressed)
    assert stages is not None and stages.artifact == "int8" and (run.compressed / "model.onnx").exists()
    with pytest.raises(ArtifactError):  # nor does it pass when it is asked again
        compress(run, {"int8": {}}, **gate)


def test_a_stopped_compression_goes_on_where_it_was(run: RunDir, tmp_path: Path) -> None:
    magnitude = {"magnitude": {"targets": [0.2, 0.4], "finetune_epochs": 1}}
    asked: list[str] = []

    def stopped(job: JobSpec) -> Result:
        asked.append(job.name)
        if asked == ["magnitude-20", "magnitude-40"]:
            raise InterruptedRunError("stopped")
        return train(job)

    with pytest.raises(InterruptedRunError):
        compress(run, magnitude, trains=stopped)
    before = Stages.read(run.compressed)
    assert before is not None and [row.name for row in before.rows] == ["fp32", "magnitude-20"]
    after = compress(run, magnitude, trains=stopped)
    assert asked == ["magnitude-20", "magnitude-40", "magnitude-40"]
    assert [row.seconds for row in after.rows[:2]] == [row.seconds for row in before.rows]
    again = RunDir(tmp_path, "again")
    again.root.mkdir()
    for path in (run.job_file, run.model, run.result_file):
        (again.root / path.name).symlink_to(path.resolve())
    compress(again, magnitude)
    digests = [weights_digest(registry.load(r.compressed / "magnitude-40")[0].state_dict()) for r in (run, again)]
    assert digests[0] == digests[1]
    # Finished: nothing is trained again. Another section: all of it is.
    compress(run, magnitude, trains=stopped)
    assert len(asked) == 3
    compress(run, {"magnitude": {"targets": [0.2], "finetune_epochs": 1}}, trains=stopped)
    assert len(asked) == 4 and not (run.compressed / "magnitude-40.onnx").exists()


def test_what_cannot_be_done_is_said(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JobError, match="no layer `conv9`"):
        compress(run, {"magnitude": {"amounts": {"conv9": 0.5}}})
    monkeypatch.setattr(stage, "_FEWEST", 10**6)
    with pytest.raises(DataError, match="int8 needs 1000000 training pictures to measure ranges on, found 1293"):
        compress(run, {"int8": {}})


def test_a_missing_library_is_named_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "_COMPRESSORS", ("onnx", "no_such_library"))
    with pytest.raises(JobError, match=r"compress: no_such_library not installed: pip install 'distaug\[compress\]'"):
        fit.compress("any")
