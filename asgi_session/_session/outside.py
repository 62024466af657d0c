"""A session outside a request: read and changed by its public id, by nobody who has its cookie."""

from __future__ import annotations

from typing import ClassVar

from asgi_session._session.session import Engine, Session


class OutsideSession(Session):
    """A session outside a request: work on it is no use by its client, and it can get no new cookie."""

    __slots__ = ()

    _outside: ClassVar = True

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._sealed = True
        self._passive = "always"
