"""A minimal TorchTrainer script: random batches on two CPU workers, and a checkpoint to go on from after a failure.

    python bench/minimal_ray.py STORAGE

`ray_times.py` compares the product with it; both train this network.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model
from torch import Tensor, nn

STEPS, BATCH = 100, 16  # Per epoch; per step on each of the two workers.


class Network(nn.Sequential):
    """A tiny network that notes on rank 0 when each training step begins, which is when the one before it is done."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        if self.training and torch.distributed.get_rank() == 0:
            with open(os.environ["STEP_TIMES"], "a") as file:
                file.write(f"{os.getpid()} {time.time()}\n")
        return super().forward(images)


def train() -> None:
    model = prepare_model(Network(10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt", weights_only=True)
        model.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    while True:
        for _ in range(STEPS):
            images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if ray.train.get_context().get_world_rank() == 0:
                state = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(state, Path(folder) / "state.pt")
                checkpoint = Checkpoint.from_directory(folder)
            ray.train.report({"loss": loss.item()}, checkpoint=checkpoint)


def main() -> None:
    ray.init(address="local", num_cpus=2, include_dashboard=False)
    TorchTrainer(
        train,
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name="minimal",
            storage_path=os.path.abspath(sys.argv[1]),
            failure_config=FailureConfig(max_failures=3),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    ).fit()


if __name__ == "__main__":
    main()
