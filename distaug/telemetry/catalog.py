"""Every metric of distaug: its name with its unit, type, help and labels.

This is the only list. The exporter, the dashboards, the alerts and docs/metrics.md are tested against it.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["CATALOG", "PHASES", "SAVE_BUCKETS", "STATES", "STEP_BUCKETS", "Metric", "document"]

PHASES = ("setup", "train", "evaluate", "save", "test")
"""What the ranks can be doing."""
STATES = ("starting", *PHASES, "compress", "finished", "stopped", "interrupted", "failed")
"""What a run can be doing, or how it ended; `stopped`: before its last epoch, by its own `stop` section."""
STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper limits in seconds, from a small network on a large GPU to a large one on a CPU."""
SAVE_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Upper limits in seconds."""


@dataclass(frozen=True)
class Metric:
    """One metric, which may have many series."""

    name: str
    """With its unit; without the suffixes of a histogram's series."""
    type: Literal["counter", "gauge", "histogram"]
    help: str
    """A sentence."""
    labels: tuple[str, ...] = ("run",)
    """What tells its series apart."""
    buckets: tuple[float, ...] = ()
    """Upper limits of a histogram, without infinity."""


_RANK = ("run", "rank")
_STAGE = ("run", "stage")
_TIMED = ("run", "stage", "batch")

CATALOG = (
    # What was done, over all ranks and restarts; work that was lost and repeated counts again.
    Metric("distaug_images_total", "counter", "Training pictures computed by all ranks, repeated ones included."),
    Metric("distaug_steps_total", "counter", "Training steps done, repeated ones included."),
    Metric("distaug_skipped_steps_total", "counter", "Steps whose update was withheld: the gradient was not finite."),
    Metric("distaug_restarts_total", "counter", "How often the workers were started again."),
    Metric("distaug_step_seconds", "histogram", "Wall time of a step, on each rank.", buckets=STEP_BUCKETS),
    Metric("distaug_data_wait_seconds", "histogram", "Part of it spent waiting for data.", buckets=STEP_BUCKETS),
    Metric("distaug_augment_seconds_total", "counter", "Time of the ranks spent augmenting; on a GPU issuing it."),
    Metric("distaug_checkpoint_seconds", "histogram", "Wall time of writing a checkpoint.", buckets=SAVE_BUCKETS),
    Metric("distaug_checkpoint_bytes_total", "counter", "Bytes of checkpoints written."),
    Metric("distaug_phase_seconds_total", "counter", "Wall time of rank 0 in each phase.", ("run", "phase")),
    # Where the training is.
    Metric("distaug_state", "gauge", "1 for what the run is doing or how it ended, else 0.", ("run", "state")),
    Metric("distaug_progress_ratio", "gauge", "Share of the planned steps that is done, 0 to 1."),
    Metric("distaug_epoch", "gauge", "Epoch in progress, from 1."),
    Metric("distaug_epochs", "gauge", "Epochs planned."),
    Metric("distaug_world_size", "gauge", "Ranks that train."),
    Metric("distaug_shards", "gauge", "Parts of a global batch."),
    Metric("distaug_patience_left_epochs", "gauge", "Epochs without improvement until the run stops early."),
    Metric(
        "distaug_goodput_ratio", "gauge", "Device time spent on work that was kept over all device time held, 0 to 1."
    ),
    # How the training goes.
    Metric(
        "distaug_images_per_second", "gauge", "Training pictures over wall time of the last ten seconds of training."
    ),
    Metric("distaug_train_loss", "gauge", "Mean training loss of the epoch so far; soft targets."),
    Metric("distaug_learning_rate", "gauge", "Learning rate of the last step."),
    Metric("distaug_scaler_scale", "gauge", "Loss scale of fp16."),
    Metric("distaug_train_top1_ratio", "gauge", "Training accuracy of the last epoch, 0 to 1; weighted where mixed."),
    Metric("distaug_val_loss", "gauge", "Loss on the validation set after the last epoch."),
    Metric("distaug_val_top1_ratio", "gauge", "Accuracy on the validation set after the last epoch, 0 to 1."),
    Metric("distaug_best_val_top1_ratio", "gauge", "Accuracy of the best epoch on the validation set, 0 to 1."),
    Metric("distaug_test_top1_ratio", "gauge", "Accuracy on the test set, once it was read, 0 to 1."),
    # Each rank; gone when the rank is.
    Metric("distaug_rank_info", "gauge", "1; on which node and device a rank is.", ("run", "rank", "node", "device")),
    Metric("distaug_rank_step_seconds", "gauge", "Mean wall time of the last steps.", _RANK),
    Metric("distaug_rank_data_wait_ratio", "gauge", "Share of it spent waiting for data, 0 to 1.", _RANK),
    Metric("distaug_rank_augment_ratio", "gauge", "Share of it spent augmenting, 0 to 1.", _RANK),
    Metric("distaug_host_memory_pss_bytes", "gauge", "Memory of the process; a shared page counts in parts.", _RANK),
    Metric("distaug_gpu_memory_allocated_bytes", "gauge", "GPU memory in tensors.", _RANK),
    Metric("distaug_gpu_memory_reserved_bytes", "gauge", "GPU memory held by the process for tensors.", _RANK),
    Metric("distaug_gpu_memory_peak_bytes", "gauge", "Most GPU memory in tensors so far.", _RANK),
    Metric("distaug_gpu_memory_limit_bytes", "gauge", "Memory of the GPU.", _RANK),
    Metric("distaug_gpu_utilization_ratio", "gauge", "Share of time with a kernel running, 0 to 1 (NVML).", _RANK),
    # What the compression came to.
    Metric("distaug_stage_bytes", "gauge", "Size of the exported file.", _STAGE),
    Metric("distaug_stage_val_top1_ratio", "gauge", "Accuracy of the file on the validation set, 0 to 1.", _STAGE),
    Metric("distaug_stage_passed", "gauge", "1 if the file passed the gate, else 0.", _STAGE),
    Metric("distaug_stage_latency_seconds", "gauge", "Median time of a batch of that many pictures.", _TIMED),
    Metric("distaug_stage_speedup_ratio", "gauge", "Median time of the uncompressed file over it.", _TIMED),
    # What made all this.
    Metric(
        "distaug_build_info",
        "gauge",
        "1; versions of distaug, Python, torch and Ray.",
        ("run", "version", "python", "torch", "ray"),
    ),
)
"""The metrics, in the order in which they are shown."""


def document() -> str:
    """Return the catalogue as a table in Markdown."""
    lines = ["| metric | type | labels | what it is |", "| --- | --- | --- | --- |"]
    for metric in CATALOG:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.type} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"
