"""``python -m benchmarks``: ask the questions, show the answers."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.questions import questions
from benchmarks.results import name_of


def main() -> int:
    """Run the suite; 1 with --strict if a target was missed."""
    known = {name_of(question): question for question in questions()}
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="QUESTION", choices=list(known), help=", ".join(known))
    parser.add_argument("--quick", action="store_true", help="less than two minutes; the figures are rough")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target was missed")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks"), metavar="DIR")
    arguments = parser.parse_args()
    missed = False
    with Bench(quick=arguments.quick) as bench:
        for name in arguments.only or known:
            question = known[name]
            rows = question.measure(bench)
            for table in question.tables(rows):
                print(f"\n{table.title}")
                for line in [table.columns, *table.rows]:
                    print("".join(f"{cell:>14}" if at else f"{cell:28}" for at, cell in enumerate(line)))
            for target in question.targets(rows):
                missed |= not target.met
                print(
                    f"{'met   ' if target.met else 'MISSED'} {target.case}: {target.ratio:.2f} ({target.how} {target.bound})"
                )
            arguments.output.mkdir(parents=True, exist_ok=True)
            (arguments.output / f"{name}.json").write_text(json.dumps(rows, indent=1))
            for plot, figure in question.plots(rows).items():
                figure.savefig(arguments.output / f"{plot}.svg")
                figure.savefig(arguments.output / f"{plot}.png", dpi=110)
    return int(missed and arguments.strict)


if __name__ == "__main__":
    sys.exit(main())
