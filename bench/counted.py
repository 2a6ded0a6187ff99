"""A small network that notes each of its training forward passes, so that steps done twice can be counted."""

import os
import socket
import time

from torch import Tensor, distributed

from distaug.model.smallnet import SmallNet

PACE_S = 0.02
"""Added to each pass, so that the run lasts as long on any machine and leaves cores to what happens around it."""


class Network(SmallNet):
    """Writes a line a shard, on rank 0, to the file that FORWARD_PASSES names: process, number of ranks, time."""

    def forward(self, images: Tensor) -> Tensor:
        if self.training and "FORWARD_PASSES" in os.environ:
            time.sleep(PACE_S)
            ranks = distributed.get_world_size() if distributed.is_initialized() else 1
            if ranks == 1 or distributed.get_rank() == 0:
                with open(os.environ["FORWARD_PASSES"], "a") as file:
                    file.write(f"{socket.gethostname()}-{os.getpid()} {ranks} {time.time()}\n")
        return super().forward(images)
