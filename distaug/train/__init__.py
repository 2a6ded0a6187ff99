"""The training loop: the same on one process, under torchrun and on a Ray cluster."""
