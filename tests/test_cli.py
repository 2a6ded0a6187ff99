"""The command line: its frozen commands and flags, its exit codes, and what a wrong job costs."""

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distaug import __version__, cli, doctor, errors
from distaug.doctor import Check

JOB = "name: tiny\ndata: {source: digits}\nmodel: {name: resnet18}\n"

# The job file is the interface: a new setting is a field of it, and this table does not grow with it.
COMMANDS = {
    "run": {"JOB", "--set", "--name", "--workers", "--json"},
    "resume": {"RUN", "--workers", "--json", "--address", "--working-dir"},
    "compress": {"RUN", "--json"},
    "validate": {"JOB", "--set", "--name", "--quick"},
    "preview": {"JOB", "--set", "--name", "--out"},
    "schema": set(),
    "evaluate": {"RUN", "--robustness", "--json"},
    "predict": {"RUN", "IMAGE", "--json"},
    "report": {"RUN", "--out"},
    "study": {"STUDY", "--set", "--name", "--quick", "--dry-run", "--json"},
    "submit": {"JOB", "--set", "--name", "--quick", "--address", "--working-dir", "-f", "--follow"},
    "status": {"RUN", "--address", "--json"},
    "logs": {"RUN", "--address", "-f", "--follow"},
    "cancel": {"RUN", "--address"},
    "manifest": {"JOB", "--set", "--name", "--image", "--volume", "--workers-per-pod"},
    "doctor": {"--json"},
}
EVERYWHERE = {"-h", "--help", "--debug"}


@pytest.fixture
def job(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return str(path)


def call(capsys, *argv):
    code = cli.main(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


def flags(parser):
    return {flag for action in parser._actions for flag in action.option_strings or [action.metavar]}


def test_commands_and_flags_are_frozen():
    parser = cli._parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    assert flags(parser) == {*EVERYWHERE, "--version", "COMMAND"}
    assert {name: flags(p) - EVERYWHERE for name, p in commands.choices.items()} == COMMANDS
    assert all(flags(p) >= EVERYWHERE for p in commands.choices.values())


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0 and capsys.readouterr().out == f"distaug {__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["train"],
        ["run"],
        ["run", "job.yaml", "--epochs", "3"],
        ["run", "job.yaml", "--workers", "0"],
        ["resume", "a", "--work", "2"],
        ["predict", "a"],
    ],
)
def test_wrong_arguments_end_with_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == errors.JobError.exit_code
    out, err = capsys.readouterr()
    assert not out and "usage: distaug" in err


def test_validate(job, capsys):
    assert call(capsys, "validate", job) == (0, f"{job}: ok (run tiny)\n", "")
    assert call(capsys, "validate", job, "--name", "b", "--set", "seed=1") == (0, f"{job}: ok (run b)\n", "")
    code, out, err = call(capsys, "validate", job, "--set", "sed=1", "--set", "train.epochs=0")
    assert code == 2 and not out
    assert err.startswith(f"distaug: 2 errors in {job}\n  --set sed=1: sed: unknown key; did you mean `seed`?")


def test_schema_is_the_schema_of_the_job(capsys):
    code, out, _ = call(capsys, "schema")
    schema = json.loads(out)
    assert code == 0 and schema["required"] == ["data", "model"]
    assert set(schema["properties"]) >= {"data", "model", "train", "cluster"}


class Result:
    def to_dict(self):
        return {
            "state": "finished",
            "reason": "all epochs",
            "test": {"top1": 0.98765, "per_class": [0.9, 1.0]},
            "machine": {"cores": 2},
            "val": None,
        }


def test_run_and_resume_hand_on_what_was_asked(job, capsys, monkeypatch):
    from distaug.cluster import fit

    calls = []

    def run(job, *, workers=None, show_progress=True):
        print("noise")
        calls.append((job.name, job.train.epochs, workers))
        return Result()

    def resume(run, *, workers=None):
        print("noise")
        calls.append((run, workers))
        return Result()

    monkeypatch.setattr(fit, "run", run)
    monkeypatch.setattr(fit, "resume", resume)
    code, out, _ = call(capsys, "run", job, "--workers", "2", "--set", "train.epochs=3", "--name", "n")
    assert code == 0 and "finished" in out and "test.top1" in out and "0.9877" in out
    assert "per_class" not in out and "cores" not in out and "None" not in out
    for argv in (["run", job, "--json"], ["resume", "runs/n", "--workers", "1", "--json"]):
        code, out, err = call(capsys, *argv)
        assert code == 0 and json.loads(out) == Result().to_dict() and err == "noise\n"
    assert calls == [("n", 3, 2), ("tiny", 30, None), ("runs/n", 1)]


def test_evaluate_and_predict(capsys, monkeypatch):
    from distaug.train import predictor

    guesses = [{"class": "cat", "probability": 0.75}, {"class": "dog", "probability": 0.25}]

    class Model:
        def evaluate(self):
            return {"top1": 0.5, "per_class": {"cat": 1.0, "dog": None}, "confusion": [[1, 0], [0, 0]]}

        def robustness(self):
            found = {"strengths": [1, 2, 3, 4, 5], "top1": [0.9, 0.8, 0.7, 0.6, 0.51234], "mean": 0.702}
            return {"set": "test", "samples": 10, "top1": 0.98765, "changes": {"rotation": found}}

        def predict(self, images, top=5):
            return [{"image": str(image), "predictions": guesses} for image in images]

    loaded = []
    monkeypatch.setattr(predictor, "load", lambda run: loaded.append(run) or Model())
    code, out, _ = call(capsys, "evaluate", "a")
    assert code == 0 and "per_class.cat" in out and "dog" not in out and "confusion" not in out
    code, out, _ = call(capsys, "evaluate", "a", "--json")
    assert json.loads(out) == Model().evaluate()
    code, out, _ = call(capsys, "evaluate", "a", "--robustness")
    assert code == 0 and "98.8" in out and "rotation 1 … 5" in out and "51.2" in out and "70.2" in out
    code, out, _ = call(capsys, "evaluate", "a", "--robustness", "--json")
    assert json.loads(out) == Model().robustness()
    code, out, _ = call(capsys, "predict", "a", "x.png", "[b].png")
    assert code == 0 and "x.png" in out and "[b].png" in out and "75.00 %" in out
    code, out, _ = call(capsys, "predict", "a", "x.png", "--json")
    assert json.loads(out) == [{"image": "x.png", "predictions": guesses}]
    assert loaded == ["a"] * 6


def test_report_writes_about_one_run_or_compares_several(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "job.yaml").write_text(JOB.replace("tiny", name))
    page = tmp_path / "runs" / "a" / "report" / "index.html"
    assert call(capsys, "report", "a") == (0, f"{page}\n", "") and page.is_file()
    assert call(capsys, "report", "a", "b") == (0, "report-a-vs-b.html\n", "")
    assert call(capsys, "report", "runs/a", "runs/b", "--out", "x.html") == (0, "x.html\n", "")
    assert "<h1>a vs b</h1>" in Path("x.html").read_text()
    code, out, err = call(capsys, "report", "c")
    assert code == 2 and not out and "there is no run 'c'" in err


STUDY = """\
name: tiny
base:
  data: {source: digits, per_class: 20}
  model: {name: smallnet}
  train: {epochs: 2, global_batch: 32}
  cluster: {workers: 1, gpus_per_worker: 0}
variants: {plain: {}, long: {train.epochs: 3}}
seeds: [0, 1]
"""


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(f"studies_dir: {tmp_path}/studies\n{STUDY}")
    return str(path)


def test_a_study_without_its_data_is_shown_without_a_time(study, capsys):
    argv = ["study", study, "--dry-run", "--set", "data.source=folder", "--set", "data.path=/no/such/folder"]
    code, out, err = call(capsys, *argv)
    assert (code, err) == (0, "")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert rows == [["plain-s0", "2"], ["long-s0", "3"], ["plain-s1", "2"], ["long-s1", "3"]]
    *_, last = out.splitlines()
    assert last.startswith("4 runs; how long they take cannot be said here: ") and "/no/such/folder" in last
    code, out, err = call(capsys, *argv, "--json")
    assert (code, err) == (0, "") and json.loads(out) == {
        "study": "tiny",
        "runs": ["plain-s0", "long-s0", "plain-s1", "long-s1"],
        "differing": {"train.epochs": {"plain": 2, "long": 3}},
        "seconds": None,
    }


def test_a_study_with_its_data_is_shown_with_a_time(study, tmp_path, capsys, monkeypatch):
    from distaug.study import estimate

    monkeypatch.setattr(estimate, "_TRIAL_S", 0.01)
    monkeypatch.setattr(estimate, "_LEAST_STEPS", 1)
    (tmp_path / "loud.py").write_text(
        "from torch import nn\n\n\ndef net(num_classes):\n    print('noise')\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    code, out, err = call(capsys, "study", study, "--dry-run")
    assert code == 0 and "measuring the speed of plain-s0" in err
    assert re.fullmatch(r"4 runs, about [1-9]\d?:\d\d left on this machine", out.splitlines()[-1])
    code, out, err = call(capsys, "study", study, "--dry-run", "--json", "--set", "model.name=loud:net")
    assert code == 0 and json.loads(out)["seconds"] > 60
    assert "measuring the speed of plain-s0" in err and "noise" in err
    assert not (tmp_path / "studies").exists()


def test_a_study_and_a_job_are_told_apart(job, study, capsys):
    hint = f"distaug: {job}: this is a job; `distaug run {job}` trains it\n"
    assert call(capsys, "study", job) == (2, "", hint)
    hint = f"distaug: {study}: this is a study; `distaug study {study}` trains its runs\n"
    assert call(capsys, "run", study) == (2, "", hint)


@pytest.mark.parametrize(("status", "expected"), [("ok", 0), ("warn", 0), ("fail", errors.ClusterError.exit_code)])
def test_doctor_fails_when_a_check_does(status, expected, capsys, monkeypatch):
    checks = [Check("gloo", "ok", "fine"), Check("nccl", status, "found [this]", "do that")]
    monkeypatch.setattr(doctor, "check", lambda: checks)
    code, out, _ = call(capsys, "doctor")
    assert code == expected and "found [this]" in out and "do that" in out and status in out
    code, out, _ = call(capsys, "doctor", "--json")
    assert code == expected and json.loads(out) == [dataclasses.asdict(c) for c in checks]


@pytest.mark.parametrize("name", errors.__all__)
def test_each_error_ends_with_its_code_and_one_message(name, capsys, monkeypatch):
    error = getattr(errors, name)

    def fail():
        raise error("rank 1 on node a was lost")

    monkeypatch.setattr(doctor, "check", fail)
    assert call(capsys, "doctor") == (error.exit_code, "", "distaug: rank 1 on node a was lost\n")
    for argv in (["--debug", "doctor"], ["doctor", "--debug"]):
        code, _, err = call(capsys, *argv)
        assert code == error.exit_code
        assert "Traceback" in err and err.endswith("distaug: rank 1 on node a was lost\n")


def test_an_unforeseen_error_is_one_line_without_debug(capsys, monkeypatch):
    def fail():
        raise RuntimeError("odd")

    monkeypatch.setattr(doctor, "check", fail)
    hint = "run again with --debug for the traceback"
    assert call(capsys, "doctor") == (1, "", f"distaug: internal error: RuntimeError: odd; {hint}\n")
    assert "Traceback" in call(capsys, "doctor", "--debug")[2]


def test_a_keyboard_interrupt_ends_with_130(capsys, monkeypatch):
    def fail():
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "check", fail)
    assert call(capsys, "doctor") == (130, "", "distaug: interrupted\n")


def python(*argv, **more):
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, **more)


def test_validate_loads_nothing_heavy(job):
    script = "import sys; from distaug.cli import main; code = main(sys.argv[1:]); print(*sys.modules); sys.exit(code)"
    for argv, expected in ((["validate", job], 0), (["run", job, "--set", "train.epochs=0"], 2)):
        done = python("-c", script, *argv)
        assert done.returncode == expected, done.stderr
        assert not {"torch", "ray", "numpy", "rich"} & set(done.stdout.split())


def test_a_wrong_job_is_refused_in_under_a_second(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(JOB + "".join(f"key_{n}: {{a: 1}}\n" for n in range(50)))
    command = [sys.executable, "-m", "distaug", "validate", str(bad)]
    fastest = float("inf")
    for _ in range(5):  # the fastest, since the machine may be busy with other tests
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        fastest = min(fastest, time.perf_counter() - start)
        assert done.returncode == 2 and "50 errors" in done.stderr
        if fastest < 1:
            return
    raise AssertionError(f"took {fastest:.2f} s")


def test_the_installed_command_and_the_module_are_the_same():
    command = Path(sys.executable).with_name("distaug")
    by_module = python("-m", "distaug", "--version")
    assert by_module.stdout == f"distaug {__version__}\n"
    if command.exists():
        assert subprocess.run([command, "--version"], capture_output=True, text=True).stdout == by_module.stdout


def test_a_reader_that_leaves_early_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "distaug", "schema"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 1 and done.stderr == ""
