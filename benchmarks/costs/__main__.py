"""Print the computed tables of the documentation, or with ``--write`` put them into the pages."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.costs.figures import read
from benchmarks.costs.pages import BLOCKS, DOCS, page


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.costs", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/")
    write = parser.parse_args(arguments).write
    figures = read()
    for name, blocks in BLOCKS.items():
        if write:
            (DOCS / name).write_text(page(name, figures), encoding="utf-8")
        else:
            print("\n\n".join(f"{name}, {block}:\n\n{make(figures)}" for block, make in blocks.items()), "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
