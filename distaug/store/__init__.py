"""The run folder: its paths, whole-or-absent writes, checkpoints, records and the final model."""
