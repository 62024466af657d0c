"""What a handler asks a session to become: rotated, cleared, destroyed; and to forget what it was asked."""

from __future__ import annotations

from datetime import timedelta

from asgi_session._data.change import Kind, Mark
from asgi_session._options import as_seconds
from asgi_session._session.telling import Telling
from asgi_session.errors import SessionError


class Marking(Telling):
    """A session of which something can be asked that its next commit carries out."""

    __slots__ = ()

    def rotate(self, *, grace: float | timedelta | None = None) -> None:
        """Give the session a new credential at the next commit; the data and the id stay.

        Call it whenever the user's privileges change, above all at login (OWASP Session Management
        Cheat Sheet, "Renew the Session ID After Any Privilege Level Change"). The old credential is
        dead at once, and what requests that came with it still want to write is dropped.

        Args:
            grace: for a periodic rotation under parallel requests: the old credential stays good until the
                new one has come back, and for this long after that (for requests that are on their way).
                A response that is lost signs nobody out. timedelta or seconds, at most an hour; costs one
                save more, when the new one comes back. Never for a login.

        Raises:
            SessionNotLoaded: load it first.
            SessionGone: it was ended by `destroy`.
            SessionError: the response has started, or it is used outside a request, so the new cookie could
                not reach the client.
            ValueError: a `grace` that makes no sense.
        """
        self._use()
        self._refuse_if_ended()
        self._refuse_outside("rotate")
        if self._sealed:
            raise SessionError(
                "rotate() was called after the response had started (or the WebSocket was accepted), so the "
                "new cookie can no longer reach the client. Call it before you return the response"
            )
        length = 0.0 if grace is None else as_seconds(grace)
        if length is None or (grace is not None and not 0.001 <= length <= 3600):  # nor is NaN
            raise ValueError(f"rotate(grace={grace!r}): must be more than 0 seconds and at most an hour")
        if self._mark is None or self._mark.kind is Kind.ROTATE_WITH_GRACE:
            kind = Kind.ROTATE if grace is None else Kind.ROTATE_WITH_GRACE
            self._mark = Mark(kind, round(length * 1000))

    def clear(self) -> None:
        """End this session; what is set afterwards begins another one, under a new id.

        That is what login and logout code written for Starlette means by it. The commit ends the old
        session first and then creates the new one: if the process dies in between, the user is signed
        out; if the new one cannot be stored, the commit fails, and the response deletes the cookie. After the
        response has started no cookie can follow: the session ends, and what was set afterwards is dropped.

        Without anything set afterwards it ends the session, as `destroy` does, but only if the request does
        not fail. Needs no load.

        Raises:
            SessionGone: it was ended by `destroy`.
            SessionError: it is used outside a request.
        """
        self._refuse_if_ended()
        self._refuse_outside("clear")
        self._empty(Mark(Kind.CLEAR))

    def _refuse_outside(self, name: str) -> None:
        if self._outside:
            raise SessionError(
                f"{name}() cannot be used outside a request, because no new cookie can reach the client. To "
                "end the session call destroy(); to empty it, delete its keys"
            )

    def destroy(self) -> None:
        """End the session at the next commit, whatever else the request does. Needs no load.

        Writing to it afterwards raises `SessionGone`.
        """
        if self._status != "ended":
            self._empty(Mark(Kind.DESTROY))

    def _empty(self, mark: Mark) -> None:
        self._forget()
        self._mark = mark
        self._opened = self._accessed = True
        if self._status == "unloaded":
            self._status = "blank"

    def discard(self) -> None:
        """Forget what was changed since the last load, commit or refresh, `rotate` and `clear` included.

        Values are as they were then. Lists and dicts have to be taken out of the session again. Not
        forgotten are a `destroy`, and a `clear` of a session that is not loaded.
        """
        self._revert()
