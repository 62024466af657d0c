"""What a store costs: formulas over list prices, and over what the benchmarks have measured.

``python -m benchmarks.costs`` prints the tables of docs/which-store.md and docs/growing.md, ``--write``
puts them into the pages. Nothing is measured here: what a request makes of commands and bytes, and what a
session takes, comes from docs/benchmarks/results.json. After a new run, or a new price, write the pages
again.
"""
