"""What goes wrong in mid-run: no hang, no lost checkpoint, a message that says what to do, an exact resume."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distaug.errors import DivergedError, RankError
from distaug.spec.job import JobSpec
from distaug.spec.load import dump_job
from distaug.store import checkpoint
from distaug.store.records import Result
from distaug.store.rundir import RunDir
from distaug.train import device
from distaug.train.world import SoloWorld, World
from tests.train.jobs import run_job, small_job

Run = Callable[..., list[Any]]


def alone(job: dict[str, Any], stop_after: int | None = None) -> dict[str, Any]:
    return run_job(SoloWorld(), job, stop_after)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the digest of the small job's weights."""
    digest: str = alone(small_job(tmp_path_factory.mktemp("undisturbed")))["result"].weights_digest
    return digest


def on_one_rank(world: World, job: dict[str, Any], trouble: Callable[[], None]) -> dict[str, Any]:
    """Train; in the second step of the second epoch of two, the last rank has trouble with its first shard."""
    real, calls = torch.nn.functional.cross_entropy, 0

    def loss(*arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal calls
        training = torch.is_grad_enabled()
        calls += training
        value = real(*arguments, **options)
        if training and world.rank == world.size - 1 and calls == 6 * (4 // world.size) + 1:
            trouble()
            return value * float("nan")
        return value

    torch.nn.functional.cross_entropy = loss
    try:
        return run_job(world, job)
    except RuntimeError as error:
        return {"error": error}
    finally:
        torch.nn.functional.cross_entropy = real


def nothing() -> None: ...


def no_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_loss_that_is_nan_on_one_rank_ends_all_and_the_state_before_it_is_kept(
    ranks: Run, tmp_path: Path, undisturbed: str
) -> None:
    job = small_job(tmp_path)
    for rank in ranks(2, on_one_rank, job, nothing):
        assert isinstance(rank["error"], DivergedError), rank
        assert "epoch 2" in str(rank["error"]) and [r.epoch for r in rank["history"]] == [0]
    found = checkpoint.newest(tmp_path / "small" / "checkpoints", warn=pytest.fail)
    assert found is not None and (found.epoch, found.step) == (1, 0)
    # Here it was the machine's fault, so the same job goes through the second time.
    assert ranks(2, run_job, job)[0]["result"].weights_digest == undisturbed


def test_a_full_memory_on_one_rank_names_it_and_the_remedy(ranks: Run, tmp_path: Path, undisturbed: str) -> None:
    job = small_job(tmp_path)
    first, second = (rank["error"] for rank in ranks(2, on_one_rank, job, no_memory))
    assert isinstance(second, RankError)
    for words in (
        "rank 1 on ",
        "out of memory on cpu (training, epoch 2, step 2)",
        " GiB of ",
        "`train.shards: 8` (5 ",
    ):
        assert words in str(second)
    assert isinstance(first, RuntimeError) and "gloo" in str(first), "the other rank does not wait for it"
    assert ranks(2, run_job, job)[0]["result"].weights_digest == undisturbed


def test_a_full_memory_while_evaluating_names_the_evaluation_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.nn.functional.cross_entropy

    def loss(*arguments: Any, **options: Any) -> torch.Tensor:
        return (
            real(*arguments, **options) if torch.is_grad_enabled() else torch.empty(1 << 50)
        )  # The CPU's own refusal.

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", loss)
    error = alone(small_job(tmp_path))["error"]
    assert isinstance(error, RankError) and "`evaluate.batch: 16` (now 32)" in str(error) and "evaluating" in str(error)


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_it_used(tmp_path: Path, undisturbed: str) -> None:
    job = small_job(tmp_path)
    alone(job, 7)
    newest = checkpoint.newest(tmp_path / "small" / "checkpoints", warn=pytest.fail)
    assert newest is not None and (newest.epoch, newest.step) == (1, 2)
    weights = newest.path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    resumed = alone(job)
    assert resumed["steps"] == 5 and resumed["result"].weights_digest == undisturbed


def command(job: dict[str, Any], folder: Path) -> tuple[int, str]:
    """Run `python -m distaug.train` as a user would; return exit code and output."""
    (folder / "job.yaml").write_text(dump_job(JobSpec.model_validate(job)))
    done = subprocess.run(
        [sys.executable, "-m", "distaug.train", "job.yaml"], cwd=folder, capture_output=True, text=True, timeout=100
    )
    return done.returncode, done.stdout + done.stderr


def test_a_disk_that_fills_up_costs_nothing_that_was_saved(tmp_path: Path, small_disk: Path) -> None:
    changes: dict[str, Any] = {"train": {"epochs": 3}, "model": {"options": {"widths": [16, 32, 32]}}}
    whole = alone(small_job(tmp_path / "whole", **changes))["result"].weights_digest
    job = small_job(small_disk, **changes)
    code, out = command(job, tmp_path)
    assert code == 7 and "Traceback" not in out and str(small_disk) in out and "no space" in out.lower(), out
    left = checkpoint.newest(small_disk / "small" / "checkpoints", warn=pytest.fail)
    assert left is not None and left.epoch >= 1
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    code, out = command(job, tmp_path)
    assert code == 0 and f"going on from epoch {left.epoch + 1}" in out, out
    result = Result.read(RunDir(str(small_disk), "small").result_file)
    assert result.weights_digest == whole


def test_a_runs_folder_that_cannot_be_written_is_told_at_once(tmp_path: Path, read_only: Path) -> None:
    code, out = command(small_job(read_only / "runs"), tmp_path)
    assert code == 7 and str(read_only) in out and "Traceback" not in out, out


def test_a_gpu_that_torch_cannot_use_is_not_replaced_by_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  418.67  Sat Apr  6\n")
    monkeypatch.setattr(device, "_DRIVER", version)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    job = small_job(tmp_path, cluster={"gpus_per_worker": "auto"})
    error = alone(job)["error"]
    assert error is not None and error.exit_code == 5
    assert "418.67" in str(error) and str(torch.version.cuda) in str(error) and "gpus_per_worker: 0" in str(error)
    # Told to, it does use the CPU.
    assert alone(small_job(tmp_path, cluster={"gpus_per_worker": 0}))["error"] is None
