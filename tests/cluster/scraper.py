"""Scrapes a run's own endpoint as Prometheus would, only more often."""

import json
import threading
import time
import urllib.request
from pathlib import Path

Values = dict[tuple[str, str], float]


def scrape(announcement: Path) -> Values:
    """Return the values by name and rank or state."""
    ((target,),) = [entry["targets"] for entry in json.loads(announcement.read_text())]
    with urllib.request.urlopen(f"http://{target}/metrics", timeout=2) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        if line and not line.startswith("#"):
            series, value = line.rsplit(" ", 1)
            name, _, labels = series.partition("{")
            told = dict(part.split("=", 1) for part in labels.rstrip("}").split('",') if "=" in part)
            key = (told.get("rank") or told.get("state") or "").strip('"')
            found[name, key] = float(value)
    return found


class Scraper(threading.Thread):
    """Scrapes again and again, as long as the run announces an endpoint."""

    def __init__(self, announcement: Path) -> None:
        super().__init__(daemon=True)
        self.announcement, self.seen, self.missed, self.over = announcement, list[Values](), 0, False

    def run(self) -> None:
        while not self.over:
            if self.announcement.exists():
                try:
                    self.seen.append(scrape(self.announcement))
                except OSError:
                    self.missed += self.announcement.exists()
            time.sleep(0.1)

    def last(self, name: str, key: str = "") -> float | None:
        return self.seen[-1].get((name, key)) if self.seen else None
