"""Fixtures of the whole suite: no state outside the temporary folder, and real ranks in real processes."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

# Before torch or ray is imported anywhere: one thread a process, no usage report, a private Ray without tokens.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "disabled"

pytest_plugins = ["tests.buckets", "tests.disks"]

_PRELOAD = ["torch", "torch.distributed", "distaug.train.local"]
_PATIENCE_S = 120


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep decoded data in one folder of this session, never in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTAUG_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


def _rank_main(function: Callable[..., Any], rank: int, size: int, folder: str, args: tuple[Any, ...]) -> None:
    import torch
    import torch.distributed as dist

    from distaug.train.world import SoloWorld, TorchWorld

    out = Path(folder) / f"rank-{rank}.pt"
    try:
        torch.set_num_threads(1)
        if size > 1:
            store = dist.FileStore(f"{folder}/store", size)
            dist.init_process_group(
                "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=_PATIENCE_S)
            )
        result = function(TorchWorld(rank) if size > 1 else SoloWorld(), *args)
        torch.save(result, out)
    except BaseException:
        out.with_suffix(".error").write_text(traceback.format_exc())
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Undo what a training in an earlier test set in this process: the number of threads changes sums."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def ranks(tmp_path: Path) -> Callable[..., list[Any]]:
    """Return `run(size, function, *args)`: gloo processes each call function(world, *args); their results in order."""
    import torch

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    calls = iter(range(1000))

    def run(size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        folder = tmp_path / f"ranks-{next(calls)}"
        folder.mkdir()
        processes = [
            context.Process(target=_rank_main, args=(function, rank, size, str(folder), args)) for rank in range(size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(_PATIENCE_S)
        hanging = [rank for rank, process in enumerate(processes) if process.is_alive()]
        for process in processes:
            process.kill()
        errors = [p.read_text() for p in sorted(folder.glob("*.error"))]
        assert not hanging and not errors, f"hanging: {hanging}\n" + "\n".join(errors)
        return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(size)]

    return run
