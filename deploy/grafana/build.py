"""Writes the dashboards: python deploy/grafana/build.py [FOLDER].

Their queries are held against the catalogue of metrics, and asked of a real Prometheus, by tests/deploy.
"""

import json
import sys
from pathlib import Path

import all_runs
import one_run
from grafana_foundation_sdk.cog.encoder import JSONEncoder


def main(folder: Path) -> None:
    """Write both dashboards."""
    for file, page in (("run.json", one_run.page()), ("cluster.json", all_runs.page())):
        dashboard = page.build()
        for number_of_panel, panel in enumerate(dashboard.panels, start=1):
            panel.id_val = number_of_panel
        (folder / file).write_text(json.dumps(dashboard, cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "dashboards")
