"""Creating: a new session's record, under an id that nobody has had."""

from __future__ import annotations

import time

from asgi_session._backoff import Backoff
from asgi_session._data import lease as leases
from asgi_session._data import record as records
from asgi_session._data.change import too_large
from asgi_session._data.expiry import expires_at
from asgi_session._data.record import Version
from asgi_session._data.token import Token, new_token
from asgi_session._policy import Policy
from asgi_session.errors import StoreUnavailable
from asgi_session.store import TAG_SIZE, TAKEN, Stored


class New:
    """A record that is to be created.

    Attributes:
        own: its entries.
        lock_for: the process that has its lock from the beginning; None: nobody.
        token: the one that was tried last, and may have been created; None: the next try takes another.
        key: of that in the store.
        version: of that.
    """

    __slots__ = ("key", "lock_for", "own", "token", "version")

    def __init__(self, own: dict[str, bytes], lock_for: bytes | None) -> None:
        self.own = own
        self.lock_for = lock_for
        self.token: Token | None = None
        self.key = ""
        self.version: Version | None = None


class Creator:
    """Creates the records of one manager."""

    __slots__ = ("_policy",)

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def refuse_too_large(self, own: dict[str, bytes]) -> None:
        """Raise SessionTooLarge if a new record of `own` would be."""
        self._encode(new_token(), own, None)

    async def create(self, new: New, deadline: float) -> tuple[Token, Version]:
        """Create a record; if it was tried before, and cancelled, the same one again.

        Raises:
            SessionTooLarge, StoreUnavailable.
        """
        store, backoff = self._policy.store, Backoff()
        while True:
            tried = new.token is not None
            if new.token is None or new.version is None:
                new.token = new_token()
                new.key, new.version = self._encode(new.token, new.own, new.lock_for)
            token, version, stored = new.token, new.version, new.version.stored
            try:
                answer = await store.create(new.key, stored.data, stored.expires_at, deadline=deadline)
                if answer is not TAKEN:
                    return token, version.tagged(answer.tag)
                if tried:
                    there = await store.load(new.key, deadline=deadline)
                    if there is not None and there.data == stored.data:  # the one before was carried out
                        return token, Version(version.record, there)
                # 128 random bits are not taken twice: something is wrong with this store.
                problem = StoreUnavailable(
                    "the store reports every new session key as already in use", executed=False
                )
            except StoreUnavailable as error:
                # Whether it was executed does not matter: the cookie has not left, so nobody knows
                # that selector, and the next try takes another.
                if error.executed is False:
                    raise
                problem = error
            if time.monotonic() >= deadline:
                raise problem
            new.token = None
            await backoff.pause(deadline)

    def _encode(self, token: Token, own: dict[str, bytes], lock_for: bytes | None) -> tuple[str, Version]:
        policy = self._policy
        key, now = policy.tokens.key(token.selector), policy.clock()
        record = records.new_record(
            now=now,
            idle=policy.idle,
            absolute=policy.absolute,
            digest=policy.tokens.digest(token),
            check=policy.tokens.check(key),
            entries=own,
        )
        if lock_for is not None:
            record = leases.write(record, leases.new(lock_for, record.version, now))
        data = records.encode(record)
        if len(data) > policy.max_size:
            raise too_large(len(data), policy.max_size)
        expires = expires_at(now, policy.unconfirmed, record.deadline)
        return key, Version(record, Stored(data, data[:TAG_SIZE], expires))
