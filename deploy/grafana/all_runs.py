"""The dashboard of all runs."""

from grafana_foundation_sdk.builders import dashboard as build
from panels import DATA_WAIT_LIMIT, WIDTH, board, grid, lines, number, variable

__all__ = ["page"]

RUNS = '{run=~"$run"}'


def _overview(page: build.Dashboard) -> None:
    """Add all runs in numbers."""
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
    ):
        page.with_panel(panel)


def _table(page: build.Dashboard) -> None:
    """Add a row for each run."""
    page.with_panel(
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
        )
    )


def _curves(page: build.Dashboard) -> None:
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


def page() -> build.Dashboard:
    """Return the dashboard of all runs."""
    made = board("distaug-cluster", "distaug: all runs", "What runs, where, and how fast.")
    made.with_variable(variable("Run", "label_values(distaug_state, run)", many=True))
    _overview(made)
    _table(made)
    _curves(made)
    return made
