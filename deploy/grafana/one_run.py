"""The dashboard of one run."""

from grafana_foundation_sdk.builders import dashboard as build
from panels import DATA_WAIT_LIMIT, WIDTH, bars, board, grid, lines, name, number, part, states, variable

__all__ = ["page"]

MEMORY_LIMIT = 0.9
RUN, RANK = '{run="$run"}', '{run="$run", rank=~"$rank"}'
NO_COMPRESSION = "nothing compressed so far"


def _overview(page: build.Dashboard) -> None:
    """Add where a run is."""
    for panel in (
        name(
            "State",
            "What the run is doing, or how it ended.",
            f"distaug_state{RUN} == 1",
            "{{state}}",
            coloured=True,
        ),
        part("Done", "Share of the planned steps.", f"distaug_progress_ratio{RUN}"),
        number(
            "Time left",
            "To the last planned epoch, at the pace of the last 5 minutes; the run may stop before.",
            {"": f"(1 - distaug_progress_ratio{RUN}) / deriv(distaug_progress_ratio{RUN}[5m])"},
            "s",
        ),
        number(
            "Epoch",
            "The one in progress, of those planned.",
            {"now": f"distaug_epoch{RUN}", "planned": f"distaug_epochs{RUN}"},
            "none",
        ),
        number(
            "Pictures per second",
            "Of the last ten seconds of training.",
            {"": f"distaug_images_per_second{RUN}"},
            "short",
        ),
        number(
            "Best accuracy",
            "Of the best epoch on the validation set; on the test set once it was read, after all choices.",
            {"best, validation": f"distaug_best_val_top1_ratio{RUN}", "test": f"distaug_test_top1_ratio{RUN}"},
            "percentunit",
            decimals=2,
            empty="no epoch has ended",
        ),
    ):
        page.with_panel(panel)


def _health(page: build.Dashboard) -> None:
    """Add what a run works with and what it loses."""
    for panel in (
        number(
            "Ranks that train",
            "And those of them that tell nothing.",
            {"train": f"distaug_world_size{RUN}", "missing": f"run:distaug_ranks_missing:count{RUN}"},
            "none",
        ),
        number("Shards", "Parts of a global batch; the unit of arithmetic.", {"": f"distaug_shards{RUN}"}, "none"),
        number(
            "Restarts and steps withheld",
            "Workers started again; updates withheld because the gradient was not finite.",
            {"restarts": f"distaug_restarts_total{RUN}", "withheld": f"distaug_skipped_steps_total{RUN}"},
            "none",
        ),
        number(
            "Goodput",
            "Device time spent on work that was kept, over all device time held.",
            {"": f"distaug_goodput_ratio{RUN}"},
            "percentunit",
            limit=0.8,
            good_above=True,
        ),
        number(
            "Patience left",
            "Epochs without improvement until the run stops early.",
            {"": f"distaug_patience_left_epochs{RUN}"},
            "none",
            empty="does not stop early",
        ),
        name(
            "Versions",
            "Of what made the run.",
            f"distaug_build_info{RUN}",
            "distaug {{version}}, torch {{torch}}, ray {{ray}}, python {{python}}",
        ),
        states("States", "What the run was doing when.", f"distaug_state{RUN} == 1", "{{state}}"),
    ):
        page.with_panel(panel)


def _learning(page: build.Dashboard) -> None:
    """Add how well a run learns."""
    page.with_row(build.Row("Learning"))
    for panel in (
        lines(
            "Loss",
            "Training: the epoch so far, on augmented pictures and soft targets. Validation: after each epoch.",
            {"training": f"distaug_train_loss{RUN}", "validation": f"distaug_val_loss{RUN}"},
            "short",
        ),
        lines(
            "Accuracy",
            "After each epoch; that of training is weighted where pictures are mixed.",
            {
                "training": f"distaug_train_top1_ratio{RUN}",
                "validation": f"distaug_val_top1_ratio{RUN}",
                "best, validation": f"distaug_best_val_top1_ratio{RUN}",
            },
            "percentunit",
            share=True,
            empty="no epoch has ended",
        ),
        lines(
            "Learning rate and loss scale",
            "Of the last step; a loss scale is there with fp16 alone.",
            {"learning rate": f"distaug_learning_rate{RUN}"},
            "sci",
            right={"loss scale": f"distaug_scaler_scale{RUN}"},
            right_unit="short",
        ),
    ):
        page.with_panel(panel)


def _speed(page: build.Dashboard) -> None:
    """Add where a run's time goes."""
    page.with_row(build.Row("Speed"))
    for panel in (
        lines(
            "Pictures and steps per second",
            "Of all ranks, over the last minute; steps on the right.",
            {"pictures": f"run:distaug_images:rate1m{RUN}"},
            "short",
            right={"steps": f"rate(distaug_steps_total{RUN}[1m])"},
            right_unit="short",
        ),
        lines(
            "Time of a step",
            "Of all ranks, over the last minute; from a histogram, so between its limits.",
            {
                "median": f"run:distaug_step_seconds:p50_rate1m{RUN}",
                "95 of 100": f"run:distaug_step_seconds:p95_rate1m{RUN}",
                "waiting, 95 of 100": f"histogram_quantile(0.95, rate(distaug_data_wait_seconds_bucket{RUN}[1m]))",
            },
            "s",
        ),
        lines(
            "Share of the step time",
            "Of all ranks, over the last minute. Above the line the loader is too slow for the devices.",
            {
                "waiting for data": f"run:distaug_data_wait:ratio_rate1m{RUN}",
                "augmenting": f"run:distaug_augment:ratio_rate1m{RUN}",
            },
            "percentunit",
            share=True,
            limit=DATA_WAIT_LIMIT,
        ),
        lines(
            "Where the time goes",
            "Wall time of rank 0 by phase, over the last minute.",
            {"{{phase}}": f"rate(distaug_phase_seconds_total{RUN}[1m])"},
            "percentunit",
            wide=12,
            stacked=True,
        ),
        lines(
            "Checkpoints",
            "Mean time of writing one, over the last 5 minutes, and bytes written since the start.",
            {
                "mean time": f"rate(distaug_checkpoint_seconds_sum{RUN}[5m])"
                f" / (rate(distaug_checkpoint_seconds_count{RUN}[5m]) > 0)"
            },
            "s",
            wide=12,
            empty="no checkpoint so far",
            right={"bytes": f"distaug_checkpoint_bytes_total{RUN}"},
            right_unit="bytes",
        ),
    ):
        page.with_panel(panel)


def _ranks(page: build.Dashboard) -> None:
    """Add each rank of a run."""
    page.with_row(build.Row("Ranks"))
    for panel in (
        grid(
            "Ranks",
            "Where they are and how they do.",
            {
                "place": (f"max by (rank, node, device) (distaug_rank_info{RANK})", ""),
                "step": (f"max by (rank) (distaug_rank_step_seconds{RANK})", "s"),
                "waiting for data": (f"max by (rank) (distaug_rank_data_wait_ratio{RANK})", "percentunit"),
                "memory": (f"max by (rank) (distaug_host_memory_pss_bytes{RANK})", "bytes"),
                "GPU memory, most in tensors": (f"max by (rank) (distaug_gpu_memory_peak_bytes{RANK})", "bytes"),
                "of": (f"max by (rank) (distaug_gpu_memory_limit_bytes{RANK})", "bytes"),
            },
            wide=WIDTH,
            empty="no rank now",
        ),
        lines(
            "Time of a step by rank",
            "Of the last steps. A rank that is alone above the others holds them up.",
            {"rank {{rank}}": f"distaug_rank_step_seconds{RANK}"},
            "s",
        ),
        lines(
            "Waiting for data by rank",
            "Share of the step time, of the last steps.",
            {"rank {{rank}}": f"distaug_rank_data_wait_ratio{RANK}"},
            "percentunit",
            share=True,
            limit=DATA_WAIT_LIMIT,
        ),
        lines(
            "Augmenting, and the GPU, by rank",
            "Share of the step time spent augmenting; share of time with a kernel running, where there is a GPU.",
            {
                "rank {{rank}} augmenting": f"distaug_rank_augment_ratio{RANK}",
                "rank {{rank}} GPU busy": f"distaug_gpu_utilization_ratio{RANK}",
            },
            "percentunit",
            share=True,
        ),
    ):
        page.with_panel(panel)


def _memory(page: build.Dashboard) -> None:
    """Add what each rank of a run holds."""
    for panel in (
        lines(
            "Memory by rank",
            "Of the process on its node, a shared page in parts; of its GPU, where there is one.",
            {
                "rank {{rank}}": f"distaug_host_memory_pss_bytes{RANK}",
                "rank {{rank}} GPU, in tensors": f"distaug_gpu_memory_allocated_bytes{RANK}",
                "rank {{rank}} GPU, reserved": f"distaug_gpu_memory_reserved_bytes{RANK}",
            },
            "bytes",
            wide=16,
        ),
        number(
            "Fullest GPU",
            "Memory reserved by the rank that has least left.",
            {"": f"max(rank:distaug_gpu_memory_reserved:ratio{RANK})"},
            "percentunit",
            limit=MEMORY_LIMIT,
            empty="no GPU",
        )
        .span(8)
        .height(8),
    ):
        page.with_panel(panel)


def _compression(page: build.Dashboard) -> None:
    """Add what came of a run's compression."""
    page.with_row(build.Row("Compression"))
    for panel in (
        grid(
            "Exported files",
            "The uncompressed one is fp32; passed is 1 where the gate let it through.",
            {
                "size": (f"max by (stage) (distaug_stage_bytes{RUN})", "bytes"),
                "accuracy, validation": (f"max by (stage) (distaug_stage_val_top1_ratio{RUN})", "percentunit"),
                "passed": (f"max by (stage) (distaug_stage_passed{RUN})", "none"),
            },
            wide=8,
            empty=NO_COMPRESSION,
        ),
        bars(
            "Time of a batch",
            "Median, by pictures of the batch.",
            {"{{stage}}, {{batch}}": f"distaug_stage_latency_seconds{RUN}"},
            "s",
            wide=8,
            empty=NO_COMPRESSION,
        ),
        bars(
            "Speed-up",
            "Over the uncompressed file, measured in turns; by pictures of the batch.",
            {"{{stage}}, {{batch}}": f"distaug_stage_speedup_ratio{RUN}"},
            "short",
            wide=8,
            empty=NO_COMPRESSION,
        ),
    ):
        page.with_panel(panel)


def page() -> build.Dashboard:
    """Return the dashboard of one run."""
    made = board("distaug-run", "distaug: one run", "Where a run is, how well it learns, and where its time goes.")
    made.with_variable(variable("Run", "label_values(distaug_state, run)", many=False))
    made.with_variable(variable("Rank", f"label_values(distaug_rank_info{RUN}, rank)", many=True))
    for add in (_overview, _health, _learning, _speed, _ranks, _memory, _compression):
        add(made)
    return made
