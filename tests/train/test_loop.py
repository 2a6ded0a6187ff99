"""The loop end to end: exact for any number of ranks and after any stop; every end is the right one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distaug.errors import DataError, DivergedError, InterruptedRunError, JobError
from distaug.model.registry import build
from distaug.spec.job import JobSpec
from distaug.store import checkpoint
from distaug.train.claim import claim
from distaug.train.predictor import load
from distaug.train.world import SoloWorld
from tests.train.jobs import judge_again, merge, run_job, small_job

Run = Callable[..., list[Any]]


def alone(job: dict[str, Any], stop_after: int | None = None) -> dict[str, Any]:
    return run_job(SoloWorld(), job, stop_after)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Keep the result of the small job in one process."""
    return alone(small_job(tmp_path_factory.mktemp("undisturbed")))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_number_of_ranks_changes_no_bit(ranks: Run, tmp_path: Path, undisturbed: dict[str, Any], size: int) -> None:
    found = ranks(size, run_job, small_job(tmp_path))
    for rank in found:
        assert rank["result"].weights_digest == undisturbed["result"].weights_digest
        assert rank["result"].test == undisturbed["result"].test
        assert rank["result"].world_size == size
    for ours, theirs in zip(found[0]["history"], undisturbed["history"], strict=True):
        assert (ours.top1, ours.raw_top1, ours.val_loss) == (theirs.top1, theirs.raw_top1, theirs.val_loss)
        assert ours.train_loss == pytest.approx(theirs.train_loss) and ours.images == theirs.images


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_stop_in_mid_epoch_and_a_resume_change_no_bit(
    ranks: Run, tmp_path: Path, undisturbed: dict[str, Any], size: int
) -> None:
    job = small_job(tmp_path)
    stopped = ranks(size, run_job, job, 7)
    assert all(isinstance(rank["error"], InterruptedRunError) for rank in stopped)
    assert len({rank["steps"] for rank in stopped}) == 1, "all ranks leave after the same step"
    resumed = ranks(size, run_job, job)
    assert stopped[0]["steps"] + resumed[0]["steps"] == 10, "no step is repeated or left out"
    assert [record.epoch for record in resumed[0]["history"]] == [0, 1]
    assert resumed[0]["result"].weights_digest == undisturbed["result"].weights_digest
    assert resumed[0]["result"].restarts == 1
    whole = undisturbed["history"][1]
    assert resumed[0]["history"][1].images == whole.images
    assert resumed[0]["history"][1].train_loss == pytest.approx(whole.train_loss)


def test_early_stopping_is_agreed_counted_once_and_survives_a_resume(ranks: Run, tmp_path: Path) -> None:
    # Nothing counts as an improvement after the first epoch, so patience 3 from epoch 0 ends after four.
    job = small_job(tmp_path, train={"epochs": 9}, stop={"patience_epochs": 3, "min_delta": 1.0, "start_epoch": 0})
    first = ranks(2, run_job, job, 12)
    second = ranks(2, run_job, job)
    for before, after in zip(first, second, strict=True):
        assert before["reports"] + after["reports"] == [0, 1, 2, 3]
        assert after["result"].state == "stopped"
        assert after["result"].reason == "no better top1 for 3 epochs"


def test_evaluation_over_any_number_of_ranks_counts_every_sample_once(ranks: Run, tmp_path: Path) -> None:
    """The same model, judged by 1, 2, 3 and 7 ranks: 359 pictures do not divide by any of them."""
    job = small_job(tmp_path, train={"shards": 8, "epochs": 4, "optimizer": {"lr": 0.2}, "ema": None})
    alone(job, 19)
    one = judge_again(SoloWorld(), job)
    assert one["samples"] == 359 and 0.2 < one["top1"] < 1
    for size in (2, 3, 7):
        for found in ranks(size, judge_again, job):
            loss = found.pop("loss")
            assert found == {name: value for name, value in one.items() if name != "loss"}
            assert loss == pytest.approx(one["loss"], rel=1e-12)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    job = small_job(tmp_path, train={"epochs": 1})
    first = alone(job)
    assert alone(job) == {"result": first["result"], "finished": True}


def test_another_job_of_the_same_name_is_refused_with_the_fields(tmp_path: Path) -> None:
    alone(small_job(tmp_path, train={"epochs": 1}))
    with pytest.raises(JobError, match=r"train\.label_smoothing: 0\.1 in the run, 0\.3 now"):
        alone(small_job(tmp_path, train={"epochs": 1, "label_smoothing": 0.3}))
    # What does not change the training may change.
    alone(small_job(tmp_path, train={"epochs": 1}, cluster={"retries": 9}))


def test_changed_data_is_refused(tmp_path: Path) -> None:
    job = small_job(tmp_path, train={"epochs": 3})
    alone(job, 7)
    manifests = sorted((tmp_path / "small" / "checkpoints").glob("*/manifest.json"))
    run, _, _ = claim(JobSpec.model_validate(job))
    found = checkpoint.newest(run.checkpoints, warn=print)
    assert found is not None and manifests
    # The same place, saved as if from other data.
    checkpoint.save(
        run.checkpoints,
        epoch=found.epoch,
        step=found.step,
        weights={"model": found.weights("model"), "ema": found.weights("ema")},
        state=found.state(),
        manifest={"job": found.manifest["job"], "data": "0" * 64, "score": None},
        keep_best=1,
    )
    assert isinstance(alone(job)["error"], DataError)


def test_divergence_ends_the_run_on_all_ranks_and_saves_nothing(ranks: Run, tmp_path: Path) -> None:
    job = small_job(tmp_path, train={"clip_norm": None, "optimizer": {"lr": 1e30}})
    for rank in ranks(2, run_job, job):
        assert isinstance(rank["error"], DivergedError)
        assert "was not finite" in str(rank["error"]) and "optimizer.lr" in str(rank["error"])
    assert not list((tmp_path / "small" / "checkpoints").glob("*/manifest.json"))


def test_fp16_that_only_overflows_has_diverged_however_short_its_epochs(tmp_path: Path) -> None:
    train = {"epochs": 8, "clip_norm": None, "optimizer": {"lr": 1e30}}
    job = small_job(tmp_path, precision="fp16", model={"options": {"widths": [8]}}, train=train)
    error = alone(job)["error"]
    assert isinstance(error, DivergedError) and "not finite in 5 of 5 steps" in str(error), error


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"precision": "fp64"},
        {"precision": "fp16", "model": {"options": {"widths": [8]}}},
        {"train": {"optimizer": {"name": "adamw", "lr": 1e-3}, "schedule": {"name": "one_cycle"}}},
        {"train": {"exact": False}},
        {"model": {"freeze_epochs": 1}},
        {"checkpoint": {"every_minutes": 1e-6}},
    ],
    ids=lambda changes: json.dumps(changes)[:40],
)
def test_a_resume_is_exact_whatever_is_on(tmp_path: Path, changes: dict[str, Any]) -> None:
    job = small_job(tmp_path / "a", **changes)
    whole = alone(job)
    job = small_job(tmp_path / "b", **changes)
    alone(job, 3)
    assert alone(job)["result"].weights_digest == whole["result"].weights_digest


def test_frozen_epochs_move_the_head_alone(tmp_path: Path) -> None:
    job = small_job(tmp_path, train={"epochs": 2, "ema": None}, model={"freeze_epochs": 1}, seed=5)
    alone(job, 6)  # One step into the second epoch: the checkpoint at its start is kept.
    run, _, _ = claim(JobSpec.model_validate(job))
    saved = sorted(run.checkpoints.glob("epoch-0001-step-0000000"))
    weights = checkpoint.decode_weights((saved[0] / "model.safetensors").read_bytes())
    fresh = build(JobSpec.model_validate(job).model, num_classes=10, image_size=32, seed=5).module.state_dict()
    moved = {name for name, value in weights.items() if not (value == fresh[name]).all()}
    assert moved == {"head.weight"}
    alone(job)
    last = checkpoint.decode_weights(
        (sorted(run.checkpoints.glob("epoch-0002-*"))[0] / "model.safetensors").read_bytes()
    )
    still = {name for name, value in last.items() if (value == fresh[name]).all()}
    assert still == {"stem.0.weight"}, "what the network itself holds fixed stays fixed"


def test_frozen_epochs_are_the_same_on_two_ranks(ranks: Run, tmp_path: Path) -> None:
    """DistributedDataParallel is made anew when the frozen epochs end."""
    changes: dict[str, Any] = {"model": {"freeze_epochs": 1}}
    whole = alone(small_job(tmp_path / "one", **changes))["result"].weights_digest
    for rank in ranks(2, run_job, small_job(tmp_path / "two", **changes)):
        assert rank["result"].weights_digest == whole


def test_a_pruned_network_is_trained_at_its_sizes_and_comes_back(ranks: Run, tmp_path: Path) -> None:
    narrow = JobSpec.model_validate(small_job(tmp_path, model={"options": {"widths": [4, 6, 10]}}))
    pruned = build(narrow.model, num_classes=10, image_size=32, seed=1).module.state_dict()
    torch.save(pruned, tmp_path / "pruned.pt")
    changes = {"model": {"weights": str(tmp_path / "pruned.pt"), "resize": True}}
    one = alone(small_job(tmp_path / "one", **changes))["result"]
    for rank in ranks(2, run_job, small_job(tmp_path / "two", **changes)):
        assert rank["result"].weights_digest == one.weights_digest
    (tmp_path / "pruned.pt").unlink()
    found = load(tmp_path / "one" / "small")
    state = found.module.state_dict()
    assert checkpoint.weights_digest(state) == one.weights_digest != checkpoint.weights_digest(pruned)
    assert {name: tensor.shape for name, tensor in state.items()} == {name: t.shape for name, t in pruned.items()}
    assert found.evaluate()["loss"] == one.test["loss"]


IMBALANCED: dict[str, Any] = {"data": {"per_class": 60, "long_tail_ratio": 20.0}}
BALANCED = merge(
    IMBALANCED,
    {"data": {"balance": "repeat_factor", "repeat_threshold": 0.4}, "train": {"class_weights": "effective_number"}},
)


def test_balance_and_class_weights_are_exact_for_any_ranks_and_after_a_stop(ranks: Run, tmp_path: Path) -> None:
    plain = alone(small_job(tmp_path / "plain", **IMBALANCED))
    whole = alone(small_job(tmp_path / "one", **BALANCED))
    assert whole["history"][0].images > plain["history"][0].images, "pictures of rare classes are repeated"
    for rank in ranks(2, run_job, small_job(tmp_path / "two", **BALANCED)):
        assert rank["result"].weights_digest == whole["result"].weights_digest
        assert rank["result"].test == whole["result"].test
    stopped = small_job(tmp_path / "stopped", **BALANCED)
    assert isinstance(alone(stopped, whole["steps"] - 2)["error"], InterruptedRunError)
    assert alone(stopped)["result"].weights_digest == whole["result"].weights_digest


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"balance": "repeat_factor"}},
        {"data": {"balance": "repeat_factor", "repeat_threshold": 0.5}},
        {"data": {"balance": "class_balanced"}},
        {"train": {"class_weights": "inverse_frequency"}},
        {"train": {"class_weights": "effective_number"}},
    ],
    ids=str,
)
def test_each_remedy_for_imbalance_trains_another_model(tmp_path: Path, change: dict[str, Any]) -> None:
    job = merge(IMBALANCED, {"train": {"epochs": 1}})
    digests = {
        alone(small_job(tmp_path, name, **changes))["result"].weights_digest
        for name, changes in (("plain", job), ("changed", merge(job, change)))
    }
    assert len(digests) == 2


def test_class_weights_weigh_the_training_loss_alone(tmp_path: Path) -> None:
    still = merge(IMBALANCED, {"train": {"epochs": 1, "optimizer": {"lr": 1e-30}}, "mix": {}})
    plain = alone(small_job(tmp_path, "plain", **still))["history"][0]
    weighted = merge(still, {"train": {"class_weights": "inverse_frequency"}})
    found = alone(small_job(tmp_path, "weighted", **weighted))["history"][0]
    assert found.val_loss == plain.val_loss and found.top1 == plain.top1
    assert abs(found.train_loss - plain.train_loss) > 0.01
    assert found.train_top1 == plain.train_top1


def test_augmented_views_judge_the_test_set_alike_on_any_number_of_ranks(ranks: Run, tmp_path: Path) -> None:
    tta: dict[str, Any] = {"evaluate": {"tta": ["flip", "shift"]}, "train": {"optimizer": {"lr": 0.2}}}
    plain = alone(small_job(tmp_path / "plain", train=tta["train"]))["result"]
    assert plain.test["tta_top1"] is None
    one = alone(small_job(tmp_path / "one", **tta))["result"]
    assert one.weights_digest == plain.weights_digest and one.val == plain.val
    assert {**one.test, "tta_top1": None} == plain.test and one.test["tta_top1"] != one.test["top1"]
    for rank in ranks(3, run_job, small_job(tmp_path / "three", **tta)):
        assert rank["result"].test["tta_top1"] == one.test["tta_top1"]


def test_final_fit_trains_on_train_and_val_for_all_epochs(tmp_path: Path) -> None:
    found = alone(small_job(tmp_path, data={"per_class": None}, train={"final_fit": True, "epochs": 1}))
    assert found["result"].val is None and found["result"].best["epoch"] == 0
    assert found["history"][0].top1 is None and found["history"][0].images == 1438 // 40 * 40


def test_the_test_set_is_left_alone_where_it_is_asked_for(tmp_path: Path) -> None:
    result = run_job(SoloWorld(), small_job(tmp_path, evaluate={"test": False}, train={"epochs": 1}))["result"]
    assert result.test is None and result.val is not None
