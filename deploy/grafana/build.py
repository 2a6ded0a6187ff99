"""Writes the dashboards: python deploy/grafana/build.py [FOLDER].

Their queries are held against the catalogue of metrics, and asked of a real Prometheus, by tests/deploy.
"""

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from panels import WIDTH, bars, board, grid, lines, name, number, part, states, variable

DATA_WAIT_LIMIT, MEMORY_LIMIT = 0.3, 0.9
RUN, RANK = '{run="$run"}', '{run="$run", rank=~"$rank"}'
RUNS = '{run=~"$run"}'
NO_COMPRESSION = "nothing compressed so far"


def run_overview(page: build.Dashboard) -> None:
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


def run_learning(page: build.Dashboard) -> None:
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


def run_speed(page: build.Dashboard) -> None:
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


def run_ranks(page: build.Dashboard) -> None:
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


def run_compression(page: build.Dashboard) -> None:
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


def run_page() -> build.Dashboard:
    """Return the dashboard of one run."""
    page = board("distaug-run", "distaug: one run", "Where a run is, how well it learns, and where its time goes.")
    page.with_variable(variable("Run", "label_values(distaug_state, run)", many=False))
    page.with_variable(variable("Rank", f"label_values(distaug_rank_info{RUN}, rank)", many=True))
    for add in (run_overview, run_learning, run_speed, run_ranks, run_compression):
        add(page)
    return page


def cluster_overview(page: build.Dashboard) -> None:
    """Add all runs in numbers and as a table."""
    live = 'state!~"finished|stopped|interrupted|failed"'
    for panel in (
        number(
            "Runs in progress",
            "Whose metrics are there and that have not ended.",
            {"": f'sum(distaug_state{{run=~"$run", {live}}})'},
            "none",
            empty="0",
        ),
        number(
            "Ranks that train",
            "And those of them that tell nothing.",
            {"train": f"sum(distaug_world_size{RUNS})", "missing": f"sum(run:distaug_ranks_missing:count{RUNS})"},
            "none",
            empty="0",
        ),
        number(
            "Pictures per second, all runs",
            "Of the last ten seconds.",
            {"": f"sum(distaug_images_per_second{RUNS})"},
            "short",
            empty="0",
        ),
        number(
            "Goodput, lowest",
            "Device time spent on work that was kept, over all device time held.",
            {"": f"min(distaug_goodput_ratio{RUNS})"},
            "percentunit",
            limit=0.8,
            good_above=True,
        ),
        number(
            "Alerts firing",
            "Prometheus says which.",
            {"": 'count(ALERTS{alertname=~"Distaug.*", alertstate="firing"}) or vector(0)'},
            "none",
            limit=1,
        ),
        number(
            "Endpoints that do not answer",
            "Of runs and of Ray's nodes.",
            {"": 'count(up{job=~"distaug|distaug-ray"} == 0) or vector(0)'},
            "none",
            limit=1,
        ),
        grid(
            "Runs",
            "The name of a run leads to its own dashboard.",
            {
                "is": (f"max by (run, state) (distaug_state{RUNS} == 1)", ""),
                "done": (f"max by (run) (distaug_progress_ratio{RUNS})", "percentunit"),
                "epoch": (f"max by (run) (distaug_epoch{RUNS})", "none"),
                "of": (f"max by (run) (distaug_epochs{RUNS})", "none"),
                "ranks": (f"max by (run) (distaug_world_size{RUNS})", "none"),
                "pictures/s": (f"max by (run) (distaug_images_per_second{RUNS})", "short"),
                "waiting for data": (f"max by (run) (run:distaug_data_wait:ratio_rate1m{RUNS})", "percentunit"),
                "best accuracy, validation": (f"max by (run) (distaug_best_val_top1_ratio{RUNS})", "percentunit"),
                "goodput": (f"max by (run) (distaug_goodput_ratio{RUNS})", "percentunit"),
                "restarts": (f"max by (run) (distaug_restarts_total{RUNS})", "none"),
            },
            wide=WIDTH,
            empty="no run now",
            link="/d/distaug-run?var-run=${__value.raw}",
        ),
    ):
        page.with_panel(panel)


def cluster_curves(page: build.Dashboard) -> None:
    """Add all runs over time, and the nodes."""
    # The memory of a rank on the node that it is on.
    on_node = "* ignoring (node, device) group_left (node) distaug_rank_info"
    for panel in (
        lines("Pictures per second", "By run.", {"{{run}}": f"run:distaug_images:rate1m{RUNS}"}, "short"),
        lines("Time of a step", "Median, by run.", {"{{run}}": f"run:distaug_step_seconds:p50_rate1m{RUNS}"}, "s"),
        lines(
            "Waiting for data",
            "Share of the step time, by run.",
            {"{{run}}": f"run:distaug_data_wait:ratio_rate1m{RUNS}"},
            "percentunit",
            share=True,
            limit=DATA_WAIT_LIMIT,
        ),
        lines("Ranks", "By node.", {"{{node}}": f"count by (node) (distaug_rank_info{RUNS})"}, "none"),
        lines(
            "Memory of the ranks",
            "By node; a shared page in parts.",
            {"{{node}}": f"sum by (node) (distaug_host_memory_pss_bytes{RUNS} {on_node})"},
            "bytes",
        ),
        lines(
            "Validation accuracy",
            "After each epoch, by run.",
            {"{{run}}": f"distaug_val_top1_ratio{RUNS}"},
            "percentunit",
            share=True,
            empty="no epoch has ended",
        ),
    ):
        page.with_panel(panel)


def cluster_page() -> build.Dashboard:
    """Return the dashboard of all runs."""
    page = board("distaug-cluster", "distaug: all runs", "What runs, where, and how fast.")
    page.with_variable(variable("Run", "label_values(distaug_state, run)", many=True))
    cluster_overview(page)
    cluster_curves(page)
    return page


def main(folder: Path) -> None:
    """Write both dashboards."""
    for file, page in (("run.json", run_page()), ("cluster.json", cluster_page())):
        dashboard = page.build()
        for number_of_panel, panel in enumerate(dashboard.panels, start=1):
            panel.id_val = number_of_panel
        (folder / file).write_text(json.dumps(dashboard, cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "dashboards")
