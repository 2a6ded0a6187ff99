"""The package's log: who writes where, and every line once."""

import logging
import re
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from distaug.errors import StorageError
from distaug.store.rundir import RunDir
from distaug.telemetry import log
from tests.buckets import Proxy


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    logging.captureWarnings(False)
    for logger in (logging.getLogger("distaug"), logging.getLogger("py.warnings")):
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            handler.close()
        logger.propagate = True


def test_rank_0_writes_to_stderr_and_its_file_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        logger = log.get(0, tmp_path / "logs")
    logger.warning("damaged picture")
    logging.getLogger("distaug.data").info("from below")
    logger.debug("too much")
    error = capsys.readouterr().err
    assert error.count("damaged picture") == 1 and "rank 0 WARNING damaged picture\n" in error
    assert (tmp_path / "logs" / "rank-0.log").read_text() == error
    assert len(error.splitlines()) == 2 and error.endswith("rank 0 INFO from below\n")


def test_other_ranks_write_to_their_file_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.get(3, tmp_path).error("lost")
    assert "rank 3 ERROR lost\n" in (tmp_path / "rank-3.log").read_text()
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


def test_a_second_run_goes_on_in_the_same_file(tmp_path: Path) -> None:
    log.get(0, tmp_path).info("one")
    log.get(0, None).info("elsewhere")
    log.get(0, tmp_path).info("two")
    lines = (tmp_path / "rank-0.log").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == ["one", "two"]


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    with pytest.raises(StorageError, match="cannot write in .*logs"):
        log.get(0, tmp_path / "logs")


def test_a_log_in_an_object_store_is_continued(bucket: str) -> None:
    logs = RunDir(f"{bucket}/runs", "a").logs
    for line in ("the first", "the second: ü"):
        log.get(3, logs).info(line)
    log.get(0, None)
    text = (logs / "rank-3.log").read_bytes().decode()
    assert [line.partition("INFO ")[2] for line in text.splitlines()] == ["the first", "the second: ü"]


def test_lines_are_put_together_and_an_error_at_once(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    S3FileSystem.clear_instance_cache()  # so that this process goes through the proxy too
    monkeypatch.setattr(log, "_PUT_EVERY_S", 60.0)
    logs = RunDir(f"{bucket}/runs", "a").logs
    logger, file = log.get(1, logs), logs / "rank-1.log"
    for number in range(50):
        logger.info("line %d", number)
    logger.error("lost")
    limit = time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < limit, "an error waits for nothing"
        time.sleep(0.05)
    assert len(file.read_bytes().splitlines()) == 51
    logger.info("the end")
    log.get(1, None)
    assert file.read_bytes().endswith(b"INFO the end\n")
    assert len([line for line in proxy.requests if line.startswith("PUT")]) == 2


def test_a_store_that_does_not_answer_keeps_nobody_waiting(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    S3FileSystem.clear_instance_cache()  # so that this process goes through the proxy too
    monkeypatch.setattr(log, "_LEAVE_WITHIN_S", 0.5)
    logger = log.get(1, RunDir(f"{bucket}/runs", "a").logs)
    proxy.hold = re.compile("PUT .*rank-1.log")
    began = time.monotonic()
    logger.error("before")
    assert proxy.held.wait(30)
    held = time.monotonic()
    for _ in range(100):
        logger.error("meanwhile")
    assert time.monotonic() - held < 1 and held - began < 10
    log.get(1, None)
    assert time.monotonic() - held < 5


def test_what_a_library_warns_of_comes_into_the_log(tmp_path: Path) -> None:
    log.get(3, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("no deterministic kernel", UserWarning, stacklevel=1)
    assert "no deterministic kernel" in (tmp_path / "rank-3.log").read_text()
