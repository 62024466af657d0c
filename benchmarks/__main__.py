"""Measure session layers side by side, and show where this one's time goes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.environment import missing
from benchmarks.results import Question, name_of

DEFAULT_OUTPUT: Final = Path("build/benchmarks")


def parse(arguments: Sequence[str] | None, known: dict[str, Question]) -> argparse.Namespace:
    """Read the command line; exits with a message if it makes no sense."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="QUESTION", help="ask only these; --list shows their names"
    )
    parser.add_argument("--quick", action="store_true", help="less than two minutes; the figures are rough")
    parser.add_argument(
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        metavar="DIR",
        help=f"for results.json and the plots (default: {DEFAULT_OUTPUT})",
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target was missed")
    parser.add_argument("--list", action="store_true", help="show the questions, and measure nothing")
    parsed = parser.parse_args(arguments)
    wanted = {name.replace("_", "-") for name in parsed.only}
    if unknown := sorted(wanted - known.keys()):
        parser.error(f"there is no question {', '.join(unknown)}; there are: {', '.join(known)}")
    parsed.asked = [question for name, question in known.items() if name in wanted or not wanted]
    if not parsed.list:
        try:
            parsed.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--output {parsed.output}: {error.strerror}")
        if not os.access(parsed.output, os.W_OK):
            parser.error(f"--output {parsed.output}: cannot be written to")
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite.

    Returns:
        1 if a question failed, or, with --strict, if a target was missed.
    """
    if lacking := missing():
        print(f"not installed: {', '.join(lacking)}; try: pip install --group bench", file=sys.stderr)
        return 2
    from benchmarks.questions import questions

    known = {name_of(question): question for question in questions()}
    parsed = parse(arguments, known)
    if parsed.list:
        for name, question in known.items():
            print(f"{name:20} {question.TITLE}")
        return 0
    try:
        return _run(parsed)
    except KeyboardInterrupt:
        print(f"interrupted; what was measured is in {parsed.output}", file=sys.stderr)
        return 130


def _run(parsed: argparse.Namespace) -> int:
    from benchmarks.bench import Bench
    from benchmarks.report.files import save_plot
    from benchmarks.report.terminal import Teller, console, show_answer, show_targets
    from benchmarks.run import Answer, Run, ask

    out = console()
    teller = Teller(out, len(parsed.asked))
    judged = []

    def done(run: Run, answer: Answer) -> None:
        run.save(parsed.output)  # now: an interrupted run keeps what it has
        if answer.error:
            return
        judged.extend((answer.name, target) for target in answer.targets())
        show_answer(out, answer)
        for name, figure in answer.plots().items():
            for ending in ("svg", "png"):
                save_plot(figure, parsed.output / f"{name}.{ending}")

    with Bench(quick=parsed.quick, say=teller.say) as bench, teller.asking():
        run = ask(bench, parsed.asked, teller.begin, done)
    run.save(parsed.output)
    show_targets(out, judged)
    out.print(f"results.json and the plots are in {parsed.output}")
    failed = [answer for answer in run.answers if answer.error]
    for answer in failed:
        print(f"\n{answer.name} FAILED:\n{answer.error}", file=sys.stderr)
    return int(bool(failed) or (parsed.strict and not all(target.met for _, target in judged)))


if __name__ == "__main__":
    sys.exit(main())
