"""Make the results page: ``python -m benchmarks.report RESULTS_JSON [LATER_JSON ...] DIRECTORY``.

The run is kept beside the plots, so that single answers of it can be renewed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.questions import questions
from benchmarks.report.page import write
from benchmarks.run import load


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and its plots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("results", type=Path, help="the results.json of a run")
    parser.add_argument("later", type=Path, nargs="*", help="those of later runs, which renew its answers")
    parser.add_argument(
        "directory", type=Path, help="for benchmarks.md, benchmarks/*.svg and benchmarks/results.json"
    )
    parsed = parser.parse_args(arguments)
    try:
        run = load(parsed.results, questions())
        for path in parsed.later:
            run.renew(load(path, questions()))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for path in write(run, parsed.directory):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
