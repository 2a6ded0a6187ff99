"""Section `cluster`: what the job asks of the machines; changes no result."""

from typing import Annotated, Literal

from pydantic import Field, Strict

from distaug.spec.section import Auto, Section

Count = Annotated[int, Field(ge=1, le=4096)]
Range = Annotated[tuple[Count, Count], Strict(False)]


class ClusterSpec(Section):
    """What the job asks of the machines."""

    workers: Count | Range | Auto = "auto"
    """Number of workers, a range `[min, max]`, or `auto`: every usable GPU, one worker on a CPU."""
    gpus_per_worker: Literal[0, 1, "auto"] = "auto"
    """GPUs of each worker; `auto`: 1 where there are any."""
    cpus_per_worker: Annotated[int, Field(ge=1)] | Auto = "auto"
    """Cores of each worker and threads of its arithmetic; `auto`: an equal share of the node."""
    accelerator: str | None = None
    """Type of accelerator asked of Ray, e.g. `H100`."""
    node_labels: dict[str, str] = {}
    """Labels that the nodes must carry (Ray's label selector)."""
    backend: Literal["auto", "nccl", "gloo"] = "auto"
    """Library of the collectives; `auto`: nccl on GPUs, gloo on CPUs."""
    env: dict[str, str] = {}
    """Environment of the workers, e.g. NCCL_SOCKET_IFNAME; never secrets."""
    retries: int = Field(default=3, ge=0)
    """How often a lost worker group is started again."""
    preemption_retries: int = Field(default=100, ge=0)
    """How often it is started again after a preemption, which does not count as a failure."""
    start_timeout_min: float = Field(default=10.0, gt=0)
    """Longest wait for the asked machines."""
    collective_timeout_s: float = Field(default=300.0, gt=0)
    """Longest wait of a worker for the others before the group is started again."""
