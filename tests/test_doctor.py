"""`distaug doctor`: what it finds here, and what it says about machines that are not well."""

import subprocess
import types
from pathlib import Path

import pytest

from distaug import doctor
from distaug.train import device


def test_this_machine():
    checks = {check.name: check for check in doctor.check()}
    assert list(checks) == [
        "versions",
        "ray",
        "devices",
        "cores",
        "memory",
        "bf16 on the CPU",
        "gloo",
        "nccl",
        "shared memory",
        "disk: current folder",
        "disk: cache folder",
    ]
    assert checks["gloo"].status == "ok"
    assert "torch 2." in checks["versions"].found and "python 3." in checks["versions"].found
    for check in checks.values():
        assert check.found and (check.advice or check.status == "ok"), check


def test_the_group_is_gone_afterwards():
    from torch import distributed

    assert doctor._group("gloo", "cpu") == ""
    assert not distributed.is_initialized()


def test_a_gpu_that_cannot_be_used_fails_with_both_versions(monkeypatch):
    problem = "a GPU is there but torch 2.15 (built for CUDA 13.2) cannot use it with driver 470.1: update it"
    monkeypatch.setattr(device, "gpu_problem", lambda: problem)
    check = doctor._devices()
    assert check.status == "fail" and check.advice == "update it"
    assert "13.2" in check.found and "470.1" in check.found


def test_no_gpu_is_well(monkeypatch):
    monkeypatch.setattr(device, "gpu_problem", lambda: None)
    monkeypatch.setattr(device, "usable_gpus", lambda: 0)
    assert doctor._devices() == doctor.Check("devices", "ok", "no GPU; the CPU trains")
    assert "not needed without a GPU" in doctor._nccl().found


def test_a_version_outside_its_range_is_named(monkeypatch):
    from packaging.specifiers import SpecifierSet

    monkeypatch.setattr(doctor, "_requirements", lambda: {"pyyaml": SpecifierSet("<5"), "nosuch": SpecifierSet(">=1")})
    check = doctor._versions()
    assert check.status == "fail" and "make setup" in check.advice
    assert "pyyaml 6" in check.found and "needs <5" in check.found
    assert "nosuch is missing, needs >=1" in check.found


def test_a_source_folder_that_was_not_installed(monkeypatch):
    monkeypatch.setattr(doctor, "_requirements", dict)
    assert doctor._versions().status == "warn"


def child(returncode, stdout="", stderr=""):
    return lambda *args, **more: types.SimpleNamespace(returncode=returncode, stdout=stdout, stderr=stderr)


def test_ray(monkeypatch):
    from packaging.specifiers import SpecifierSet

    monkeypatch.setattr(subprocess, "run", child(0, "2.60.0\n"))
    assert doctor._ray().found == "2.60.0"
    monkeypatch.setattr(doctor, "_requirements", lambda: {"ray": SpecifierSet("<2")})
    assert doctor._ray().status == "fail" and "needs <2" in doctor._ray().found
    monkeypatch.setattr(subprocess, "run", child(1, "", "Traceback\nImportError: no libfoo\n"))
    assert doctor._ray().status == "fail" and "ImportError: no libfoo" in doctor._ray().found
    monkeypatch.setattr(subprocess, "run", child(-11))
    assert "exit code -11" in doctor._ray().found


@pytest.mark.parametrize(("free", "status"), [(100 * 2**20, "fail"), (2 * 2**30, "warn"), (9 * 2**30, "ok")])
def test_disk(free, status, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=free, total=2**40))
    check = doctor._disk("disk", tmp_path / "not" / "yet")
    assert check.status == status and f"{free / 2**30:.1f} GiB free" in check.found


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert doctor._disk("disk", tmp_path).status == "fail"


def test_small_shared_memory(monkeypatch):
    size = types.SimpleNamespace(free=64 * 2**20, total=64 * 2**20)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: size)
    check = doctor._shared_memory()
    assert check.status == "warn" and "--shm-size" in check.advice


def test_the_containers_memory_counts(monkeypatch):
    monkeypatch.setattr(doctor, "_memory_limits", lambda: [(3 * 2**30, 2 * 2**30)])
    check = doctor._memory()
    assert check.status == "warn" and check.found == "1.0 GiB free of the container's 3.0"


def test_a_look_that_breaks_down_is_a_failure():
    def _odd_thing():
        raise OSError("no /proc")

    check = doctor._look(_odd_thing)
    assert (check.name, check.status, check.found) == ("odd thing", "fail", "OSError: no /proc")


def test_every_check_leaves_the_working_folder_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", child(0, "2.60.0\n"))
    doctor.check()
    assert list(Path.cwd().iterdir()) == []
