"""Distillation: its loss by hand, any number of ranks, and teachers that do not fit."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import distaug
from distaug.errors import InterruptedRunError, JobError, StorageError
from distaug.spec.job import JobSpec
from distaug.store.checkpoint import weights_digest
from distaug.store.model_files import write_model
from distaug.store.records import Result
from distaug.train.claim import claim
from distaug.train.reporter import LocalReporter
from distaug.train.setup import setup
from distaug.train.state import Training
from distaug.train.step import train_step
from distaug.train.world import SoloWorld
from tests.train.jobs import merge, run_job, small_job

Run = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model is larger than the student."""
    root = tmp_path_factory.mktemp("teacher")
    job = small_job(root, model={"options": {"widths": [8, 16, 16]}}, train={"epochs": 1, "optimizer": {"lr": 0.2}})
    assert run_job(SoloWorld(), job)["result"] is not None
    return root / "small"


def taught(runs: Path, teacher: Path, name: str = "taught", **changes: Any) -> dict[str, Any]:
    return small_job(runs, name, **merge({"train": {"epochs": 1, "distill": {"teacher": str(teacher)}}}, changes))


def ready(job: dict[str, Any]) -> Training:
    run, claimed, _ = claim(JobSpec.model_validate(job))
    t = setup(claimed, run, SoloWorld(), LocalReporter())
    t.close()
    return t


def divergence(answers: Tensor, logits: Tensor, temperature: float) -> Tensor:
    ours, theirs = (logits / temperature).softmax(1), (answers / temperature).softmax(1)
    return (theirs * (theirs / ours).log()).sum(1).mean()


def test_the_loss_of_each_shard_is_that_of_the_paper(tmp_path: Path, teacher: Path) -> None:
    distill = {"teacher": str(teacher), "weight": 0.3, "temperature": 2.0}
    changes = {"train": {"distill": distill, "class_weights": "inverse_frequency"}, "data": {"long_tail_ratio": 5.0}}
    t = ready(taught(tmp_path, teacher, **changes))
    assert t.teacher is not None
    blend, calls, told = t.teacher.blend, [], []

    def watched(*arguments: Tensor) -> Tensor:
        calls.append(arguments)
        return blend(*arguments)

    t.teacher.blend = watched  # type: ignore[method-assign]
    t.tally.add = lambda *shard: told.append(shard)  # type: ignore[method-assign]
    train_step(t, 0, 0, next(t.loader.train(0)))
    classifier = distaug.load(teacher)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (t.augment.mean, t.augment.std))
    own_mean, own_std = (torch.tensor(values).view(1, 3, 1, 1) for values in (classifier.mean, classifier.std))
    assert len(calls) == 4 and not torch.equal(mean, own_mean), "other pictures, so another normalisation"
    for (labels, logits, images), (loss, _, targets) in zip(calls, told, strict=True):
        torch.testing.assert_close(labels, torch.nn.functional.cross_entropy(logits, targets, t.class_weights))
        answers = classifier.module((images * std + mean - own_mean) / own_std)
        torch.testing.assert_close(loss, 0.7 * labels + 0.3 * 4.0 * divergence(answers, logits, 2.0))
    assert not answers.requires_grad and loss.grad_fn is None
    assert weights_digest(t.teacher._module.state_dict()) == classifier.card["weights_digest"], "it never learns"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Result:
    """What the student comes to in one process."""
    result: Result = run_job(SoloWorld(), taught(tmp_path_factory.mktemp("whole"), teacher))["result"]
    return result


def test_it_is_exact_for_any_ranks_and_after_a_stop(ranks: Run, tmp_path: Path, teacher: Path, whole: Result) -> None:
    for rank in ranks(2, run_job, taught(tmp_path / "two", teacher)):
        assert rank["result"].weights_digest == whole.weights_digest
    stopped = taught(tmp_path / "stopped", teacher)
    assert isinstance(run_job(SoloWorld(), stopped, 3)["error"], InterruptedRunError)
    assert run_job(SoloWorld(), stopped)["result"].weights_digest == whole.weights_digest


@pytest.mark.parametrize("precision", ["bf16", "fp64"])
def test_other_precisions_come_close(tmp_path: Path, teacher: Path, whole: Result, precision: str) -> None:
    result = run_job(SoloWorld(), taught(tmp_path, teacher, precision=precision))["result"]
    assert result.final["train_loss"] == pytest.approx(whole.final["train_loss"], rel=0.02)


@pytest.mark.parametrize("change", [None, {"weight": 0.9}, {"temperature": 1.0}], ids=str)
def test_each_field_changes_what_is_learnt(
    tmp_path: Path, teacher: Path, whole: Result, change: dict[str, float] | None
) -> None:
    distill = change and {"teacher": str(teacher), **change}
    other = run_job(SoloWorld(), taught(tmp_path, teacher, train={"distill": distill}))["result"]
    assert other.weights_digest != whole.weights_digest


def test_class_weights_are_for_the_labels_alone(tmp_path: Path, teacher: Path) -> None:
    digests = set()
    for kind in ("none", "inverse_frequency"):
        train = {"distill": {"weight": 1.0}, "class_weights": kind}
        job = taught(tmp_path, teacher, kind, data={"long_tail_ratio": 5.0}, train=train)
        digests.add(run_job(SoloWorld(), job)["result"].weights_digest)
    assert len(digests) == 1


def test_a_run_or_its_model_folder_is_named(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    os.symlink(teacher, tmp_path / "runs" / "large")
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate((teacher, teacher / "model", Path("large"), Path("runs/large/model"))):
        assert ready(taught(tmp_path / "own", name, f"student-{number}")).teacher is not None


def other(folder: Path, teacher: Path, **card: Any) -> Path:
    """Write the teacher's model once more, with another card."""
    classifier = distaug.load(teacher)
    own = {"format", "versions", "weights_digest", "file"}
    kept = {key: value for key, value in classifier.card.items() if key not in own}
    write_model(folder, classifier.module.state_dict(), kept | card)
    return folder


def test_teachers_that_do_not_fit_are_refused(tmp_path: Path, teacher: Path) -> None:
    larger = other(tmp_path / "larger", teacher, image_size=48)
    with pytest.raises(JobError, match=r"distill\.teacher: .*larger tells 10 .* of 48 pixels, .* 10 classes and 32 "):
        ready(taught(tmp_path, larger))
    misfit = other(tmp_path / "misfit", teacher, classes=list("abc"))
    with pytest.raises(StorageError, match=r"(?s)misfit: the weights do not fit the model 'smallnet'.*head\.weight"):
        ready(taught(tmp_path, misfit))
    with pytest.raises(JobError, match=r"train\.distill\.teacher: there is no run '.*nobody'"):
        ready(taught(tmp_path, tmp_path / "nobody"))
    run, _, _ = claim(JobSpec.model_validate(small_job(tmp_path, "unfinished")))
    run.save_job(JobSpec.model_validate(small_job(tmp_path, "unfinished")))
    with pytest.raises(StorageError, match=r"there is no model in .*unfinished/model: the run has not ended"):
        ready(taught(tmp_path, tmp_path / "unfinished"))
