"""The page in a real browser, without a network: it renders, fits a phone, and is light or dark as is wished."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distaug.report.compare import write_comparison
from distaug.report.run import write_report
from distaug.store.predictions import Prediction
from tests.report.runs import ANSWERS, make_run, result_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE = 390

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(BROWSER is None, reason="no chromium is installed: NOBODY LOOKED AT THE REPORT IN A BROWSER"),
]


@pytest.fixture
def pages(tmp_path: Path) -> list[Path]:
    """Return the report of a run with long names, and a comparison."""
    long = "a-class-with-a-name-that-is-much-too-long-for-any-phone" * 3
    answers = [Prediction("test", k, f"folder/{long}-{k}.png", long, "dog", 0.9, 0.1) for k in range(3)]
    a = make_run(
        tmp_path, "a" * 100, result=result_of("a", classes=["cat", "dog", long]), answers=ANSWERS[:3] + answers
    )
    b = make_run(tmp_path, "b", job={"seed": 2})
    return [write_report(a), write_comparison([a, b], tmp_path / "two.html")]


def chromium(tmp_path: Path, *arguments: str) -> str:
    assert BROWSER is not None
    shared = [
        "--headless=new",
        "--disable-gpu",
        "--hide-scrollbars",
        "--no-first-run",
        f"--user-data-dir={tmp_path}/profile",
    ]
    # Its sandbox refuses root; any request to a host would fail.
    shared += ["--no-sandbox"] * (os.getuid() == 0) + ["--host-resolver-rules=MAP * ~NOTFOUND"]
    done = subprocess.run([BROWSER, *shared, *arguments], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("which", [0, 1], ids=["one run", "two runs"])
def test_the_page_fits_a_phone(which: int, pages: list[Path], tmp_path: Path) -> None:
    # The page itself may run no script, so one around it measures.
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'''<iframe src="{pages[which].as_uri()}" width="{PHONE}" height="800" style="border:0"></iframe><p></p><script>
        onload = () => {{
            const page = document.querySelector("iframe").contentDocument
            const count = what => page.querySelectorAll(what).length
            const found = [page.documentElement.scrollWidth, count("section"), count("svg")]
            document.querySelector("p").textContent = found.join(" ")
        }}</script>'''
    )
    found = chromium(tmp_path, "--allow-file-access-from-files", "--dump-dom", outer.as_uri())
    width, sections, drawings = map(int, found.partition("<p>")[2].partition("</p>")[0].split())
    assert width <= PHONE and (sections, drawings) == [(5, 7), (4, 5)][which]


def test_the_page_is_light_or_dark(pages: list[Path], tmp_path: Path) -> None:
    brightness = {}
    for name, wish in (("dark", 0), ("light", 1)):
        file = tmp_path / f"{name}.png"
        wished = f"--blink-settings=preferredColorScheme={wish}"
        chromium(tmp_path, wished, f"--screenshot={file}", "--window-size=900,1200", pages[0].as_uri())
        pixels = np.asarray(Image.open(file).convert("L"), dtype=float)
        brightness[name] = np.median(pixels)
        assert pixels.std() > 10, "something is written on it"
    assert brightness["dark"] < 60 and brightness["light"] > 200
