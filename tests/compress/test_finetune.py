"""The job that trains a pruned network again differs from that of the run where it must, and nowhere else."""

from pathlib import Path
from typing import Any

import pytest

from distaug.compress.finetune import finetune_job
from distaug.spec import conflicts
from distaug.spec.compress import FinetuneSpec
from distaug.spec.job import JobSpec, differences
from tests.train.jobs import small_job

WEIGHTS, TEACHER, FOLDER = Path("/a/w.safetensors"), Path("/a/model"), Path("/a/finetune")


def base(**changes: Any) -> JobSpec:
    most: dict[str, Any] = {
        "seed": 5,
        "train": {"epochs": 9, "optimizer": {"weight_decay": 0.01}, "schedule": {"warmup_epochs": 2.0}},
        "model": {"freeze_epochs": 1},
        "stop": {"metric": "loss", "patience_epochs": 3, "start_epoch": 4, "time_budget_min": 7.0},
        "evaluate": {"tta": ["flip"]},
        "compress": {},
    }
    return JobSpec.model_validate(small_job(Path("/a"), "base", **(most | changes)))


def tuned(job: JobSpec, **settings: Any) -> JobSpec:
    found = finetune_job(job, "channels", FOLDER, FinetuneSpec(**settings), weights=WEIGHTS, teacher=TEACHER)
    conflicts.check(found)
    return found


def test_only_what_must_be_is_another() -> None:
    job = base()
    found = tuned(job, finetune_epochs=4, finetune_lr_fraction=0.2)
    assert (found.name, found.runs_dir, found.compress) == ("channels", str(FOLDER), None)
    assert {path: now for path, now, _ in differences(found, job)} == {
        "train.epochs": 4,
        "train.optimizer.lr": pytest.approx(0.2 * 0.05),
        "train.schedule.warmup_epochs": 0,
        "train.keep_zeros": True,
        "model.weights": str(WEIGHTS),
        "model.resize": True,
        "model.freeze_epochs": 0,
        "stop.patience_epochs": None,
        "stop.start_epoch": 0,
        "stop.time_budget_min": None,
        "evaluate.tta": [],
        "evaluate.test": False,
    }
    assert JobSpec.model_validate(found.model_dump(mode="json")) == found


def test_it_starts_from_the_pruned_weights_alone() -> None:
    found = tuned(base(model={"options": {"pretrained": True, "widths": [8]}})).model
    assert found.options == {"widths": [8]} and found.weights == str(WEIGHTS)


def test_the_schedule_is_a_cosine_of_its_own() -> None:
    job = base(train={"schedule": {"name": "multi_step", "milestones_epochs": [5], "gamma": 0.5}})
    assert tuned(job).train.schedule == JobSpec.model_validate(small_job(Path("/a"))).train.schedule


def test_pictures_are_mixed_as_the_training_ended() -> None:
    assert tuned(base()).mix == base().mix
    unmixed = base(mix={"off_after_epoch": 7})
    assert unmixed.mix.mixup is not None
    assert tuned(unmixed).mix.mixup is None and tuned(unmixed).mix.cutmix is None


def test_the_uncompressed_model_teaches_only_when_asked() -> None:
    assert tuned(base()).train.distill is None
    distill = tuned(base(), distill=0.3).train.distill
    assert distill is not None and (distill.teacher, distill.weight) == (str(TEACHER), 0.3)
