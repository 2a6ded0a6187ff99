"""What is seen of a study: plain lines, or a table on a terminal."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from distaug.telemetry.lines import Seen, epoch_line, read, step_line
from distaug.telemetry.overview import Overview
from tests.telemetry.test_lines import PLACE, RECORD

RUNS = ["a-s0", "b-s0", "a-s1", "b-s1"]
Capture = pytest.CaptureFixture[str]


def plain(capture: Capture) -> list[str]:
    """Return the lines since the last time."""
    text = capture.readouterr().err
    assert "\x1b" not in text
    return text.splitlines()


def frame(capture: Capture) -> list[list[str]]:
    """Return the words of the lines of the table as it was drawn last."""
    text = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", capture.readouterr().err)
    last = text.rpartition("study mine")[2]
    return [words for line in re.split(r"[\r\n]+", last) if (words := re.sub("[│┃]", " ", line).split())]


def rows(found: list[list[str]]) -> dict[str, list[str]]:
    """Return the cells of each run in the table."""
    return {words[0]: words[1:] for words in found if re.fullmatch(r"\w+-s\d+", words[0])}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "60"}.items():
        monkeypatch.setenv(name, value)
    yield


def test_each_run_is_announced_with_the_time_that_is_left(capsys: Capture) -> None:
    with Overview("mine", RUNS) as shown:
        assert not shown.live
        shown.begin("a-s0")
        shown.end("a-s0", "done", val=0.5, test=0.5, seconds=100.0)
        shown.begin("b-s0")
        shown.end("b-s0", "done", seconds=50.0)
        shown.begin("a-s1")
        shown.end("a-s1", "failed")
        shown.begin("b-s1")
        shown.end("b-s1", "done", seconds=75.0)
    assert plain(capsys) == [
        "study: run 1 of 4: a-s0",
        "study: run 2 of 4: b-s0, about 5:00 left",
        "study: run 3 of 4: a-s1, about 2:30 left",
        "study: run 4 of 4: b-s1, about 1:15 left",
    ]


def test_runs_that_were_done_before_or_failed_tell_no_time(capsys: Capture) -> None:
    shown = Overview("mine", RUNS)
    shown.end("a-s0", "done", val=0.5)
    shown.begin("b-s0")
    shown.end("b-s0", "failed", seconds=1.0)
    shown.begin("a-s1")
    shown.end("a-s1", "done", seconds=30.0)
    shown.begin("b-s1")
    assert [line.partition(": ")[2] for line in plain(capsys)] == [
        *("run 2 of 4: b-s0", "run 3 of 4: a-s1", "run 4 of 4: b-s1, about 0:30 left")
    ]


def test_a_run_prints_its_epochs_and_now_and_then_a_step(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    with Overview("mine", RUNS) as shown, shown.begin("a-s0") as screen:
        screen.update(PLACE, 1000.0)
        screen.line("[bold]said[/bold]")
        screen.record(RECORD)
        monkeypatch.setattr("distaug.telemetry.screen._PLAIN_EVERY_S", 0.0)
        screen.update(PLACE, 1000.0)
        screen.update(replace(PLACE, step=0), 1000.0)
    expected = ["[bold]said[/bold]", epoch_line(RECORD, PLACE.epochs), step_line(PLACE, 1000.0)]
    assert plain(capsys) == ["study: run 1 of 4: a-s0", *expected]


def test_what_is_printed_can_be_read_again_of_the_run_that_is_trained(capsys: Capture) -> None:
    shown = Overview("mine", RUNS)
    for run, top1 in (("a-s0", 0.75), ("b-s0", 0.5)):
        with shown.begin(run) as screen:
            screen.update(replace(PLACE, epochs=5), 1000.0)
            screen.record(replace(RECORD, top1=top1))
        shown.end(run, "done", seconds=20.0)
    lines = plain(capsys)
    assert read(lines) == Seen(epoch=3, epochs=5, images_per_second=12_346.0, top1=0.5, left_s=60.0)
    assert read([*lines, "study: run 3 of 4: a-s1, about 0:40 left"]) == Seen(left_s=40.0)


@pytest.mark.usefixtures("terminal")
def test_nothing_is_shown_where_nothing_is_to_be_shown(capsys: Capture) -> None:
    with Overview("mine", RUNS, show=False) as shown, shown.begin("a-s0") as screen:
        screen.update(PLACE, 1000.0)
        screen.record(RECORD)
        screen.line("said")
        shown.end("a-s0", "done", seconds=1.0)
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("terminal")
def test_the_table_fills(capsys: Capture) -> None:
    with Overview("mine", RUNS) as shown:
        assert shown.live
        found = frame(capsys)
        assert found[1] == ["run", "state", "epoch", "val", "%", "test", "%", "took"]
        assert rows(found) == {run: ["waiting"] for run in RUNS}
        shown.end("a-s0", "done", val=0.5, test=0.625)
        with shown.begin("b-s0") as screen:
            screen.update(PLACE, 1000.0)
            screen.record(RECORD)
        found = frame(capsys)
        assert rows(found) == {
            "a-s0": ["done", "50.00", "62.50"],
            "b-s0": ["running", "3/2000", "81.25"],
            "a-s1": ["waiting"],
            "b-s1": ["waiting"],
        }
        assert ["step", "4/10", "1,000", "images/s", "loss", "0.7500", "21:18", "left"] in found
        assert found[-1] == "1 done, 1 running, 0 failed, 2 waiting".split()
        shown.end("b-s0", "done", val=0.8125, test=0.75, seconds=61.0)
        found = frame(capsys)
        assert rows(found)["b-s0"] == ["done", "3/2000", "81.25", "75.00", "1:01"]
        assert found[-1] == "2 done, 0 running, 0 failed, 2 waiting; about 2:02 left".split()
        assert not [words for words in found if words[0] == "step"], "that was of the run that is done"
        shown.begin("a-s1")
        shown.end("a-s1", "failed")
    found = frame(capsys)
    assert rows(found)["a-s1"] == ["failed"]
    assert found[-1] == "2 done, 0 running, 1 failed, 1 waiting; about 1:01 left".split()


@pytest.mark.usefixtures("terminal")
def test_at_the_end_nothing_is_left(capsys: Capture) -> None:
    with Overview("mine", RUNS[:1]) as shown, shown.begin("a-s0") as screen:
        screen.update(replace(PLACE, phase="test", epoch=PLACE.epochs, step=0), None)
        assert rows(frame(capsys))["a-s0"] == ["running", "2000/2000"]
        shown.end("a-s0", "done", seconds=61.0)
    assert frame(capsys)[-1] == "1 done, 0 running, 0 failed, 0 waiting".split()


@pytest.mark.usefixtures("terminal")
def test_the_last_lines_stand_below_the_table(capsys: Capture) -> None:
    with Overview("mine", RUNS) as shown, shown.begin("a-s0") as screen:
        screen.line("one\ntwo\nthree")
        screen.line("four")
        shown.line("[red]five[/red]")
        counts, *said = frame(capsys)[-5:]
        assert counts[:2] == ["0", "done,"] and said == [["two"], ["three"], ["four"], ["[red]five[/red]"]]


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("now", "first"), [(0, 0), (12, 0), (20, 8), (39, 16)])
def test_of_many_runs_those_around_the_current_one_are_shown(capsys: Capture, now: int, first: int) -> None:
    names = [f"run-s{number}" for number in range(40)]
    with Overview("mine", names) as shown:
        shown.begin(names[now])
    found = frame(capsys)
    assert list(rows(found)) == names[first : first + 24] and rows(found)[names[now]] == ["running"]
    assert found[-1] == "0 done, 1 running, 0 failed, 39 waiting".split()


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("height", "count"), [(60, 24), (30, 18), (20, 8), (13, 1)])
def test_on_a_low_terminal_fewer_runs_are_shown(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, height: int, count: int
) -> None:
    monkeypatch.setenv("LINES", str(height))
    names = [f"run-s{number}" for number in range(40)]
    with Overview("mine", names) as shown, shown.begin(names[20]) as screen:
        screen.update(PLACE, 1000.0)
        screen.line("one\ntwo\nthree\nfour")
        found = frame(capsys)
        assert len(rows(found)) == count and rows(found)[names[20]] == ["running", "4/2000"]
        assert found[-4:] == [["one"], ["two"], ["three"], ["four"]] and len(found) < height
        assert found[-6][:2] == ["step", "4/10"] and found[-5][:2] == ["0", "done,"]


@pytest.mark.usefixtures("terminal")
def test_what_is_said_before_and_after_the_table_is_printed_plainly(capsys: Capture) -> None:
    shown = Overview("mine", RUNS)
    shown.line("[red]waiting[/red]\nfor another")
    assert plain(capsys) == ["[red]waiting[/red]", "for another"]
    with shown:
        shown.line("meanwhile")
        found = frame(capsys)
        assert ["meanwhile"] in found and ["for", "another"] not in found
    capsys.readouterr()
    shown.line("later")
    assert plain(capsys) == ["later"]
