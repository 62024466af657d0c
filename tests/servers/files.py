"""A file of SQLite as what other stores have a server for."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path


class SQLiteFile:
    """A file in a directory of its own. It can be frozen: somebody else then holds its lock."""

    port = 0

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="asgi-session-test-"))
        self._holder: sqlite3.Connection | None = None

    @property
    def url(self) -> str:
        return f"sqlite:///{self.directory / 'sessions.db'}"

    def freeze(self) -> None:
        """Lock the file, as a program does that is in the middle of a write and does not go on."""
        self._holder = sqlite3.connect(self.directory / "sessions.db", isolation_level=None)
        self._holder.execute("BEGIN EXCLUSIVE")

    def thaw(self) -> None:
        assert self._holder is not None
        self._holder.execute("ROLLBACK")
        self._holder.close()
        self._holder = None

    def kill(self) -> None:
        raise NotImplementedError("there is no process")

    def restart(self) -> None:
        raise NotImplementedError("there is no process")

    def stop(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
