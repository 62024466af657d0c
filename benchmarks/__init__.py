"""The benchmark suite: session layers side by side, and where our own time goes."""
