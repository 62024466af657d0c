"""What a session tells of itself: its id, and its times."""

from __future__ import annotations

from datetime import UTC, datetime

from asgi_session._data.identity import signed_of
from asgi_session._data.record import MAX_TIME
from asgi_session._session.serving import Serving


class Telling(Serving):
    """A session that can be asked about."""

    __slots__ = ()

    @property
    def loaded(self) -> bool:
        """Whether it can be read without an await."""
        return self._status != "unloaded"

    @property
    def accessed(self) -> bool:
        """Whether this request has used it; the response then varies by cookie."""
        return self._accessed

    @property
    def id(self) -> str | None:
        """The public id: safe to log and to show, no credential. None until it is created.

        A rotation keeps it. After `clear` and new values it is the new session's from the commit on.
        """
        return self._token.selector if self._version is not None and self._token is not None else None

    @property
    def created_at(self) -> datetime | None:
        """When it was created, in UTC; None until then."""
        return _utc(self._version.record.created) if self._version is not None else None

    @property
    def expires_at(self) -> datetime | None:
        """When it expires if it is not used again, in UTC; None until it is created.

        Looking at it extends nothing; whether the request does, see `load_session`.
        """
        return _utc(self._expires_at) if self._version is not None else None

    @property
    def idle_expires_at(self) -> datetime | None:
        """The same as `expires_at`, by the name that says why: when to warn its user.

        Never after `absolute_expires_at`. While the two differ, using the session puts it off.
        """
        return self.expires_at

    @property
    def absolute_expires_at(self) -> datetime | None:
        """When it ends however much it is used, in UTC; None until it is created."""
        return _utc(self._version.record.deadline) if self._version is not None else None

    @property
    def authenticated_at(self) -> datetime | None:
        """When who is signed in has proved that it is them, in UTC; None when nobody is.

        That is when they signed in, or the last `reauthenticated`. Needs the manager's `identity`. After a
        sign-in it is set from the commit on, which is `commit`, or when the response starts.
        """
        since = self._authenticated_since()
        return _utc(since) if since else None

    def _authenticated_since(self) -> int:
        """Return the same in ms since the Unix epoch; 0: never."""
        return signed_of(self._version.record).since if self._version is not None else 0


def _utc(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(min(milliseconds, MAX_TIME) / 1000, UTC)
