"""The image, built and proved on a cluster of containers; takes about a quarter of an hour, most of it the build."""

import subprocess

import pytest

from tests.deploy.queries import DEPLOY

SKIPPED = 77


@pytest.mark.deploy
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_cluster_of_containers_keeps_its_promises() -> None:
    done = subprocess.run(
        [DEPLOY / "cluster_test.sh"], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=3500
    )
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout
    assert "ended with the same weights" in done.stdout
