"""Submitted runs on real Ray nodes, all on this machine: nodes come, leave and die, or are not as the driver's is."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import distaug
from bench.nodes import Cluster, Run, alone, can_make_nodes, job

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(can_make_nodes()), reason=f"cannot make namespaces, which needs root: {can_make_nodes()}"),
]

ODD = "kind=odd"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nodes")


@pytest.fixture(scope="module")
def cluster(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes of one core each, beside a head without any."""
    made = Cluster(folder, {"DISTAUG_CACHE": str(tmp_path_factory.getbasetemp() / "cache")})
    with made.running():
        made.add("one", "two")
        yield made


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> str:
    """Return the digest of the same job's weights, trained in one process alone."""
    return alone(folder / "alone", job())


def train_on(cluster: Cluster, run: Run, starts: int) -> None:
    """Wait until some steps have been done since the last start."""
    cluster.wait_for(lambda: len(run.attempts()) == starts)
    before = len(run.passes())
    cluster.wait_for(lambda: len(run.passes()) > before + 60)


def test_a_run_grows_moves_and_shrinks_to_the_same_bits(cluster: Cluster, folder: Path, undisturbed: str) -> None:
    run = Run(cluster, folder / "through", job(workers=[1, 3]))
    train_on(cluster, run, 1)
    cluster.add("three")
    train_on(cluster, run, 2)
    cluster.drain("two", 120)
    train_on(cluster, run, 3)
    cluster.kill("three")
    assert run.end() == 0, run.said()
    assert [start["world_size"] for start in run.attempts()] == [2, 3, 2, 1]
    assert run.digest() == undisturbed
    grown, drained, died = run.lost_steps()
    assert (grown, drained) == (0, 0) and died >= 0
    said = run.said()
    assert "there is room for 3 workers" in said and "two (" in said and "is being taken away" in said
    assert said.count("workers lost (1 of 3 retries): rank") == 1
    assert cluster.alive().keys() == {"head", "one"}, "a node that was drained leaves as soon as its workers have"
    cluster.add("two")


def test_a_fixed_number_of_workers_waits_for_a_node_that_comes(
    cluster: Cluster, folder: Path, undisturbed: str
) -> None:
    run = Run(cluster, folder / "late", job(workers=3))
    cluster.wait_for(lambda: "the job asks for 3 x 1 CPU, and there is room for 2 of them" in run.said())
    cluster.add("late")
    assert run.end() == 0, run.said()
    assert [start["world_size"] for start in run.attempts()] == [3] and run.digest() == undisturbed
    cluster.kill("late")


def test_too_few_nodes_end_it_with_both_numbers(cluster: Cluster, folder: Path) -> None:
    run = Run(cluster, folder / "few", job(workers=6, start_timeout_min=0.2))
    assert run.end() == 5, run.said()
    said = run.said()
    assert "start_timeout_min = 0.2" in said and "6 x 1 CPU" in said and "room for 2" in said and "one (" in said


def test_retries_end(cluster: Cluster, folder: Path) -> None:
    cluster.add("frail", label="kind=frail")
    run = Run(cluster, folder / "retries", job(workers=1, retries=0, node_labels={"kind": "frail"}))
    train_on(cluster, run, 1)
    cluster.kill("frail")
    assert run.end() == 5, run.said()
    assert "more often than `cluster.retries` allows" in run.said()


@pytest.mark.parametrize("what", ["storage", "data", "no data", "version", "not installed"])
def test_a_node_that_is_not_like_the_others_is_named(cluster: Cluster, folder: Path, what: str) -> None:
    shared = folder / what.replace(" ", "-")
    pictures, others = folder / "pictures", folder / "others"
    if not pictures.exists():
        draw(pictures, 0)
        draw(others, 1)
    package = Path(distaug.__file__)
    changed = folder / "changed.py"
    changed.write_text(package.read_text().replace(distaug.__version__, "0.0.1"))
    mounts = {
        "storage": f"mount -t tmpfs none {shared}",
        "data": f"mount --bind {others} {pictures}",
        "no data": f"mount -t tmpfs none {pictures}",
        "version": f"mount --bind {changed} {package}",
        "not installed": f"mount -t tmpfs none {package.parent}",
    }
    shared.mkdir()
    # The other one is as it should be.
    cluster.add(f"odd-{what[:2]}", mounts=[mounts[what]], label=ODD)
    cluster.add(f"even-{what[:2]}", label=ODD)
    spec = job(workers=2, node_labels={"kind": "odd"})
    spec["data"] = {"source": "folder", "path": str(pictures), "image_size": 9}
    spec["train"]["global_batch"] = 12
    run = Run(cluster, shared, spec)
    code, said = run.end(), run.said()
    assert code == {"data": 3, "no data": 3}.get(what, 5), said
    expected = {
        "storage": "no run folder of the driver",
        "data": "digests",
        "no data": str(pictures),
        "version": "0.0.1",
        "not installed": "5 times for the same reason",
    }
    (line,) = [line for line in said.splitlines() if line.startswith("distaug: ")]
    assert expected[what] in line and f"odd-{what[:2]} (" in line and "Traceback" not in said, said
    for name in (f"odd-{what[:2]}", f"even-{what[:2]}"):
        cluster.kill(name)


def draw(folder: Path, first: int) -> None:
    from PIL import Image

    shutil.rmtree(folder, ignore_errors=True)
    for part in ("train", "test"):
        for label in ("a", "b"):
            (folder / part / label).mkdir(parents=True)
            for index in range(20):
                colour = (first, 9 * index, 100 * (label == "b") + 50 * (part == "test"))
                Image.new("RGB", (9, 9), colour).save(folder / part / label / f"{index}.png")
