"""Writing events down."""

from __future__ import annotations

import json
import os
import time
from typing import Any


class Record:
    """A file of events."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, event: str, **info: Any) -> None:
        """Write a line, in one system call: a killed process has written it, or not."""
        line = json.dumps({"event": event, "at": time.monotonic(), **info}, separators=(",", ":"))
        os.write(self._file, line.encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)
