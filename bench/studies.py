"""Run the ready studies in their quick setting, keep what they found, and hold it against what is known.

    python bench/studies.py run --data PATH [STUDY …]     jobs/study_STUDY.yaml; results to bench/results/studies,
                                                          with a picture of the page where chromium is installed
    python bench/studies.py check                         what the literature is sure of, against the kept results

A study takes up to 20 minutes on two cores (ablation 60). Killed, the same command goes on where it was.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageChops

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "bench" / "results" / "studies"
STUDIES = sorted(path.stem.removeprefix("study_") for path in (ROOT / "jobs").glob("study_*.yaml"))


class Expectation(NamedTuple):
    """A direction that the literature is sure of."""

    study: str
    variant: str
    """Compared with the variant that the study compares it with."""
    metric: str
    sign: int
    """Of the difference."""
    why: str


EXPECTED = [
    Expectation("basic", "and crop", "top1", 1, "flip and crop beat no augmentation at equal epochs"),
    Expectation("strength", "weak", "top1", 1, "weak augmentation beats none at equal epochs"),
    Expectation("mixing", "mixup", "gap", -1, "Mixup narrows the gap between training and validation"),
    Expectation("mixing", "cutmix", "gap", -1, "CutMix narrows the gap between training and validation"),
    Expectation("smoothing", "label_smoothing=0.05", "ece", -1, "a little smoothing lowers over-confidence"),
    Expectation("imbalance", "repeat factor", "macro", 1, "repeating rare classes raises macro accuracy"),
    Expectation("imbalance", "class balanced", "macro", 1, "balanced sampling raises macro accuracy"),
    Expectation("imbalance", "class weights", "macro", 1, "class weights raise macro accuracy"),
    Expectation("limited_data", "50, weak", "top1", 1, "augmentation pays most where data is scarce"),
    Expectation("ablation", "only flip crop jitter", "top1", 1, "flip, crop and jitter beat no augmentation"),
    Expectation("ablation", "all", "gap", -1, "everything together narrows the gap between training and validation"),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run")
    run_parser.add_argument("studies", nargs="*", default=STUDIES, choices=[*STUDIES, []], metavar="STUDY")
    run_parser.add_argument("--data", required=True, help="folder of CIFAR-10 as Parquet")
    run_parser.add_argument("--work", type=Path, default=Path("studies"), help="where the runs go")
    commands.add_parser("check")
    arguments = parser.parse_args()
    if arguments.command == "check":
        return check()
    return max(run(study, arguments.data, arguments.work) for study in arguments.studies)


def run(study: str, data: str, work: Path) -> int:
    """Run a study and keep its tables; return its exit code."""
    command = [sys.executable, "-m", "distaug", "study", str(ROOT / "jobs" / f"study_{study}.yaml"), "--quick"]
    code = subprocess.run([*command, "--set", f"data.path={data}", "--set", f"studies_dir={work}"]).returncode
    folder = work / f"study-{study.replace('_', '-')}-quick"
    KEPT.mkdir(parents=True, exist_ok=True)
    for kind in ("csv", "json"):
        shutil.copyfile(folder / f"results.{kind}", KEPT / f"{study}.{kind}")
    if browser := shutil.which("chromium"):
        photograph(browser, folder / "index.html", KEPT / f"{study}.png")
    return code


def photograph(browser: str, page: Path, picture: Path) -> None:
    """Draw a page, in few colours."""
    with tempfile.TemporaryDirectory() as scratch:
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={scratch}/profile"]
        shot = Path(scratch) / "page.png"
        command = [browser, *options, "--window-size=1000,9000", f"--screenshot={shot}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        image = Image.open(shot).convert("RGB")
        # The page ends where nothing but its background follows.
        ground = Image.new("RGB", image.size, image.getpixel((0, image.height - 1)))
        _, _, _, bottom = ImageChops.difference(image, ground).getbbox() or (0, 0, 0, image.height)
        image.crop((0, 0, image.width, min(image.height, bottom + 20))).quantize(48).save(picture, optimize=True)


def difference(study: str, variant: str, metric: str) -> dict[str, Any]:
    """Return a kept difference: count, mean, half of the 95 % interval."""
    lines = json.loads((KEPT / f"{study}.json").read_text())["summary"]["lines"]
    found: dict[str, Any] = next(line for line in lines if line["variant"] == variant)["differences"][metric]
    return found


def check() -> int:
    """Print each expectation beside what was found; return 1 if one of them is contradicted beyond the noise."""
    worst = 0
    for one in EXPECTED:
        if not (KEPT / f"{one.study}.json").exists():
            print(f"{'not run':12} {one.study}: {one.why}")
            continue
        found = difference(one.study, one.variant, one.metric)
        clear = found["half"] is not None and abs(found["mean"]) > found["half"]
        agrees = found["mean"] * one.sign > 0
        verdict = ("shown" if clear else "direction only") if agrees else ("CONTRADICTED" if clear else "within noise")
        worst = max(worst, int(verdict == "CONTRADICTED"))
        half = "" if found["half"] is None else f" ± {found['half']:.4f}"
        print(f"{verdict:14} {one.study} {one.variant} {one.metric} {found['mean']:+.4f}{half}: {one.why}")
    return worst


if __name__ == "__main__":
    sys.exit(main())
