"""Train a job without Ray: `python -m distaug.train JOB`, or under torchrun on several processes."""

import argparse
import os
import signal
import sys
from time import monotonic
from types import FrameType

from distaug.errors import DistaugError, RankError
from distaug.spec.load import load_job
from distaug.telemetry.board import Board
from distaug.telemetry.meter import Meter
from distaug.telemetry.progress import Progress
from distaug.telemetry.screen import Screen
from distaug.train.local import train
from distaug.train.reporter import LocalReporter

__all__ = ["main"]

_SHOW_EVERY_S = 0.5


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m distaug.train", description=__doc__)
    parser.add_argument("job", help="job file")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override a field")
    parser.add_argument("--name", help="name of the run")
    arguments = parser.parse_args(argv)
    first = os.environ.get("RANK", "0") == "0"
    screen = Screen(arguments.job, show=first)
    meter, board = Meter(0), Board(arguments.job)

    shown_at = 0.0

    def show(progress: Progress) -> None:
        nonlocal shown_at
        meter.note(progress)
        if first and monotonic() - shown_at >= _SHOW_EVERY_S:
            shown_at = monotonic()
            board.take([meter.stats()])
            screen.update(progress, board.images_per_second)

    reporter = LocalReporter(on_progress=show, on_record=screen.record, on_log=screen.line)

    def stop(number: int, frame: FrameType | None) -> None:
        reporter.stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        job = load_job(arguments.job, arguments.set, name=arguments.name)
        with screen:
            result = train(job, reporter)
    except DistaugError as error:
        if first or isinstance(error, RankError):  # The others are the same on all ranks.
            print(f"distaug: {error}", file=sys.stderr)
        return error.exit_code
    if first and result.test:
        print(f"test top1 {100 * result.test['top1']:.2f} % ({result.test['samples']} pictures)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
