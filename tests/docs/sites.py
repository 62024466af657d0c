"""The apps of the page of recipes, each under uvicorn, over https, in a process of its own."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import httpx2
import trustme
import uvicorn

from tests.app.provider import make_provider
from tests.docs.pages import ROOT, python
from tests.servers import wait_until
from tests.servers.server import free_port

PAGE = ROOT / "docs/recipes.md"
FILES = [block.file for block in python(PAGE)]


class Site:
    """A recipe's app, served to whoever trusts its certificate."""

    _clients: ClassVar[list[httpx2.Client]] = []

    def __init__(self, file: str, directory: Path, replaced: dict[str, str]) -> None:
        (text,) = (block.text for block in python(PAGE) if block.file == file)
        for placeholder, value in replaced.items():
            assert placeholder in text or "://" in placeholder
            text = text.replace(placeholder, value)
        (directory / file).write_text(text)
        authority = trustme.CA()
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(directory / "pem")
        self.trust: ssl.SSLContext = ssl.create_default_context()
        authority.configure_trust(self.trust)
        port = free_port()
        self.url = f"https://localhost:{port}"
        self._log = directory / "log"
        self._checked = 0
        command = [sys.executable, "-m", "uvicorn", f"{file.removesuffix('.py')}:app", "--port", str(port)]
        command += ["--ssl-certfile", "pem", "--ssl-keyfile", "pem"]
        quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "HOME": str(directory)}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=directory, env={**os.environ, **quiet}, stdout=log, stderr=log
            )

        def ready() -> bool:
            assert self._process.poll() is None, self.log()
            with socket.create_connection(("localhost", port)):
                return True

        try:
            wait_until(f"{file} is served", ready, timeout=60, every=0.05)
        except BaseException:
            self.close()
            raise

    def client(self) -> httpx2.Client:
        """Return a browser of its own, good until `close_clients`; it follows no redirect."""
        client = httpx2.Client(base_url=self.url, verify=self.trust, timeout=30)
        self._clients.append(client)
        return client

    @classmethod
    def close_clients(cls) -> None:
        """Close the browsers of every site."""
        while cls._clients:
            cls._clients.pop().close()

    def log(self) -> str:
        """Return what the server has written so far."""
        return self._log.read_text()

    def close(self) -> None:
        """End the server."""
        self._process.terminate()
        try:
            self._process.wait(15)
        finally:
            self._process.kill()

    def check(self) -> None:
        """See that nothing has gone wrong since the last time that no response told of."""
        new = self.log()[self._checked :]
        self._checked += len(new)
        assert "Traceback" not in new, new


@contextmanager
def provider() -> Iterator[str]:
    """Run an OpenID provider; give its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    issuer = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(make_provider(issuer), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        wait_until("the provider answers", lambda: httpx2.get(f"{issuer}/jwks").is_success)
        yield issuer
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
