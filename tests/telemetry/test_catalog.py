"""The catalogue: sound in itself, and what docs/metrics.md says."""

from pathlib import Path

from distaug.telemetry.catalog import CATALOG, document

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_names_say_type_and_unit() -> None:
    names = [metric.name for metric in CATALOG]
    assert len(set(names)) == len(names)
    for metric in CATALOG:
        assert metric.name.startswith("distaug_") and metric.help.endswith(".") and metric.labels[0] == "run"
        assert metric.name.endswith("_total") == (metric.type == "counter"), metric.name
        assert bool(metric.buckets) == (metric.type == "histogram") and list(metric.buckets) == sorted(metric.buckets)


def test_the_page_is_made_from_it() -> None:
    message = "put the output of `python -c 'from distaug.telemetry import catalog; print(catalog.document())'` there"
    assert document() in PAGE.read_text(), message
