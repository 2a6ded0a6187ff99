"""The kinds of panels that the dashboards are made of."""

from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, gauge, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

__all__ = ["DATA_WAIT_LIMIT", "WIDTH", "bars", "board", "grid", "lines", "name", "number", "part", "states", "variable"]

SOURCE = DataSourceRef("prometheus", "${datasource}")
WIDTH = 24
DATA_WAIT_LIMIT = 0.3
"""Share of the step time from which on the alert speaks of it, too."""
STATES = {
    "starting": "gray",
    "setup": "light-blue",
    "train": "blue",
    "evaluate": "purple",
    "save": "light-purple",
    "test": "dark-purple",
    "compress": "yellow",
    "finished": "green",
    "stopped": "green",
    "interrupted": "orange",
    "failed": "red",
}

Queries = dict[str, str]
"""Query by legend, which may hold {{label}}."""


def _filled(panel: Any, title: str, about: str, queries: Queries, *, wide: int, high: int, instant: bool) -> Any:
    panel.title(title).description(about).datasource(SOURCE).span(wide).height(high)
    for place, (legend, query) in enumerate(queries.items()):
        asked = Dataquery().expr(query).legend_format(legend).ref_id(chr(ord("A") + place)).datasource(SOURCE)
        panel.with_target(asked.instant() if instant else asked.range())
    return panel


def _thresholds(limit: float | None, *, good_above: bool = False) -> build.ThresholdsConfig:
    below, above = ("red", "green") if good_above else ("green", "red")
    steps = [Threshold(None, "green" if limit is None else below)]
    if limit is not None:
        steps.append(Threshold(limit, above))
    return build.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def lines(
    title: str,
    about: str,
    queries: Queries,
    unit: str,
    *,
    wide: int = 8,
    limit: float | None = None,
    share: bool = False,
    stacked: bool = False,
    empty: str | None = None,
    right: Queries | None = None,
    right_unit: str = "",
) -> Any:
    """Return curves over time.

    Args:
        title: Of the panel.
        about: Its description.
        queries: Of the left axis.
        unit: Of the left axis.
        wide: Columns of 24.
        limit: Where a red line is drawn.
        share: Whether the values are in 0 to 1.
        stacked: Whether they are parts of a whole.
        empty: What is said where the query finds nothing.
        right: Queries of the right axis.
        right_unit: Its unit.
    """
    panel = _filled(timeseries.Panel(), title, about, queries | (right or {}), wide=wide, high=8, instant=False)
    panel.unit(unit).thresholds(_thresholds(limit)).fill_opacity(60 if stacked else 5).line_width(1)
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.TABLE).placement(LegendPlacement.BOTTOM)
    panel.legend(legend.show_legend(True).calcs(["lastNotNull", "max"]))
    panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    panel.min(0)
    if share:
        panel.max(1)
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.PERCENT))
    if limit is not None:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    if empty is not None:
        panel.no_value(empty)
    for place in range(len(queries), len(queries) + len(right or {})):
        moved = {"custom.axisPlacement": "right", "unit": right_unit}
        panel.override_by_query(chr(ord("A") + place), [DynamicConfigValue(key, value) for key, value in moved.items()])
    return panel


def number(
    title: str,
    about: str,
    queries: Queries,
    unit: str,
    *,
    limit: float | None = None,
    good_above: bool = False,
    decimals: int | None = None,
    empty: str = "–",
) -> Any:
    """Return one or two large numbers: see `lines`; with `good_above` what is below the limit is red."""
    panel = _filled(stat.Panel(), title, about, queries, wide=4, high=4, instant=True)
    panel.unit(unit).thresholds(_thresholds(limit, good_above=good_above)).no_value(empty)
    panel.graph_mode(BigValueGraphMode.NONE).color_mode(BigValueColorMode.VALUE)
    panel.text_mode(BigValueTextMode.VALUE_AND_NAME if len(queries) > 1 else BigValueTextMode.VALUE)
    return panel if decimals is None else panel.decimals(decimals)


def name(title: str, about: str, query: str, legend: str, *, coloured: bool = False) -> Any:
    """Return words made of labels, in large."""
    panel = _filled(stat.Panel(), title, about, {legend: query}, wide=4, high=4, instant=True)
    panel.graph_mode(BigValueGraphMode.NONE).text_mode(BigValueTextMode.NAME).no_value("no such run now")
    panel.color_mode(BigValueColorMode.BACKGROUND if coloured else BigValueColorMode.NONE)
    if coloured:
        for state, colour in STATES.items():
            fixed = {"mode": "fixed", "fixedColor": colour}
            panel.override_by_name(state, [DynamicConfigValue("color", fixed)])
    return panel


def part(title: str, about: str, query: str) -> Any:
    """Return a share from 0 to 1 as a dial."""
    panel = _filled(gauge.Panel(), title, about, {"": query}, wide=4, high=4, instant=True)
    return panel.unit("percentunit").min(0).max(1).thresholds(_thresholds(None)).no_value("–")


def bars(title: str, about: str, queries: Queries, unit: str, *, wide: int, empty: str) -> Any:
    """Return a bar for each series."""
    panel = _filled(bargauge.Panel(), title, about, queries, wide=wide, high=8, instant=True)
    return panel.unit(unit).min(0).thresholds(_thresholds(None)).no_value(empty)


def states(title: str, about: str, query: str, legend: str) -> Any:
    """Return a row for each series, filled while it has a value."""
    panel = _filled(statetimeline.Panel(), title, about, {legend: query}, wide=WIDTH, high=7, instant=False)
    panel.fill_opacity(70)
    return panel.mappings([ValueMap({"1": ValueMappingResult(text=" ", color="blue")})]).no_value("no such run now")


def grid(title: str, about: str, columns: dict[str, tuple[str, str]], *, wide: int, empty: str, link: str = "") -> Any:
    """Return a table with a row for each combination of labels.

    Args:
        title: Of the panel.
        about: Its description.
        columns: Query and unit by heading; a query whose unit is empty only brings labels.
        wide: Columns of 24.
        empty: What is said where there is none.
        link: Where the cells of the column `run` lead.
    """
    queries = {heading: query for heading, (query, _) in columns.items()}
    panel = _filled(table.Panel(), title, about, queries, wide=wide, high=8, instant=True)
    for target in panel.build().targets:
        target.format_val = PromQueryFormat.TABLE
    values = {f"Value #{chr(ord('A') + place)}": heading for place, heading in enumerate(columns)}
    hidden = {"Time", *(value for value, heading in values.items() if not columns[heading][1])}
    panel.with_transformation(DataTransformerConfig("merge", options={}))
    panel.with_transformation(
        DataTransformerConfig(
            "organize", options={"excludeByName": dict.fromkeys(sorted(hidden), True), "renameByName": values}
        )
    )
    for heading, (_, unit) in columns.items():
        if unit:
            panel.override_by_name(heading, [DynamicConfigValue("unit", unit)])
    if link:
        panel.override_by_name("run", [DynamicConfigValue("links", [{"title": "This run", "url": link}])])
    return panel.filterable(True).no_value(empty)


def variable(label: str, query: str, *, many: bool) -> build.QueryVariable:
    """Return a choice on top of a dashboard, named like its label in small letters."""
    choice = (
        build.QueryVariable(label.lower())
        .label(label)
        .query({"query": query, "refId": label})
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.NATURAL_ASC)
    )
    if not many:
        return choice
    everything = VariableOption(selected=True, text=["All"], value=["$__all"])
    return choice.multi(True).include_all(True).all_value(".*").current(everything)


def board(uid: str, title: str, about: str) -> build.Dashboard:
    """Return a dashboard with a choice of the data source and nothing else."""
    return (
        build.Dashboard(title)
        .uid(uid)
        .description(about)
        .tags(["distaug"])
        .time("now-30m", "now")
        .refresh("5s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(build.DashboardLink("distaug").type(DashboardLinkType.DASHBOARDS).tags(["distaug"]).as_dropdown(True))
        .with_variable(build.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
