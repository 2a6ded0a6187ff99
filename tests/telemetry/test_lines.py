"""Lines of a run: what is printed can be read again."""

from dataclasses import replace

from distaug.store.records import EpochRecord
from distaug.telemetry.lines import COMPRESSING, STUDY, Seen, duration, epoch_line, read, step_line
from distaug.telemetry.progress import Progress

RECORD = EpochRecord(
    epoch=2,
    steps=10,
    images=640,
    seconds=1.5,
    eval_seconds=0.5,
    data_wait_seconds=0.0,
    images_per_second=12_345.6,
    lr=0.1,
    train_loss=1.25,
    train_top1=0.5,
    train_top1_mixed=False,
    val_loss=1.0,
    top1=0.8125,
)
PLACE = Progress(
    phase="train",
    epoch=3,
    epochs=2000,
    step=4,
    steps=10,
    global_batch=64,
    loss=0.75,
    lr=0.1,
    scale=None,
    skipped=0,
    rank_images=256,
    wait_seconds=0.0,
    augment_seconds=0.0,
    saved_bytes=0,
    device="cpu",
    world_size=1,
    shards=1,
    restarts=0,
    patience_left=None,
    goodput=None,
)


def test_an_epoch_is_read_as_it_was_printed() -> None:
    line = epoch_line(RECORD, 2000)
    assert line == (
        "epoch    3/2000  train loss 1.2500  val loss 1.0000  top1 81.25 %  12,346 images/s  1.5 s  1:06:34 left"
    )
    assert read([line]) == Seen(epoch=3, epochs=2000, images_per_second=12_346.0, top1=0.8125, left_s=1997 * 2.0)


def test_a_step_is_read_as_it_was_printed() -> None:
    line = step_line(PLACE, 1_000.0)
    left = (2000 * 10 - 34) * 64 / 1_000
    assert line == f"epoch 4/2000 step 4/10  1,000 images/s  loss 0.7500  {duration(left)} left"
    assert read([line]) == Seen(epoch=3, epochs=2000, images_per_second=1_000.0, left_s=round(left))
    assert read([step_line(PLACE, None)]) == Seen(epoch=3, epochs=2000)


def test_the_best_accuracy_stays_and_the_rest_is_the_last() -> None:
    worse = replace(RECORD, epoch=3, top1=0.5, images_per_second=10.0)
    seen = read(["Ray says something", epoch_line(RECORD, 5), "going on", epoch_line(worse, 5), ""])
    assert seen == Seen(epoch=4, epochs=5, images_per_second=10.0, top1=0.8125, left_s=2.0)


def test_nothing_is_left_after_the_last_epoch_and_without_validation_there_is_no_accuracy() -> None:
    last = epoch_line(replace(RECORD, top1=None, val_loss=None), 3)
    assert "left" not in last and "top1" not in last
    assert read([last]) == Seen(epoch=3, epochs=3, images_per_second=12_346.0, left_s=0.0)


def test_what_trains_a_pruned_network_on_is_another_training() -> None:
    lines = [epoch_line(RECORD, 40), f"{COMPRESSING}channels", epoch_line(replace(RECORD, top1=1.0, epoch=0), 4)]
    assert read(lines) == Seen(epoch=3, epochs=40, images_per_second=12_346.0, top1=0.8125)


def test_a_run_that_has_said_nothing_yet_is_unknown() -> None:
    assert read([]) == Seen()


def test_of_several_runs_of_a_study_the_last_is_told() -> None:
    first = [f"{STUDY}run 1 of 2: a-s0", epoch_line(RECORD, 40), f"{COMPRESSING}int8", f"{STUDY}run 2 of 2: b-s0"]
    assert read(first) == Seen()
    worse = replace(RECORD, epoch=0, top1=0.5, images_per_second=10.0)
    assert read([*first, epoch_line(worse, 5)]) == Seen(epoch=1, epochs=5, images_per_second=10.0, top1=0.5)


def test_of_a_study_the_time_left_is_that_of_all_its_runs() -> None:
    lines = [f"{STUDY}run 1 of 3: a-s0", epoch_line(RECORD, 40), f"{STUDY}run 2 of 3: b-s0, about 1:02:03 left"]
    left = 3723.0
    assert read(lines) == Seen(left_s=left)
    lines += [step_line(PLACE, 1_000.0), epoch_line(RECORD, 3)]
    seen = Seen(epoch=3, epochs=3, images_per_second=12_346.0, top1=0.8125, left_s=left)
    assert read(lines) == seen
    assert read([*lines, f"{COMPRESSING}int8", f"{STUDY}b-s0: the gate refused it", f"{STUDY}b-s0 failed: x"]) == seen
