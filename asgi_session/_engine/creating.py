"""Creating: a new session's record, under an id that nobody has had."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from asgi_session._backoff import Backoff
from asgi_session._data import identity as identities
from asgi_session._data import lease as leases
from asgi_session._data import record as records
from asgi_session._data.change import too_large
from asgi_session._data.expiry import expires_at
from asgi_session._data.lifetime import Lifetime
from asgi_session._data.record import Record, Version
from asgi_session._data.token import Token, new_token
from asgi_session._engine.deciding import Place
from asgi_session._engine.signing_in import SignIns, revoked_meanwhile
from asgi_session._policy import Policy
from asgi_session.errors import StoreUnavailable
from asgi_session.store import TAG_SIZE, TAKEN, Stored


class New:
    """A record that is to be created.

    Attributes:
        own: its entries.
        lock_for: the process that has its lock from the beginning; None: nobody.
        lifetime: its own; None: as the options say.
        began: when its request began, ms; 0: not known.
        description: of the client.
        token: its id and credential; None: not drawn yet, or the next try takes another.
        key: of that in the store.
        version: of that; None: it is yet to be encoded.
        place: of that in the indexes; None: it belongs in none.
        now: when that was drawn, ms.
        sent: whether that version may be in the store.
        room: so many bytes its data may have even if that is more than `max_size` allows.
        draw: draws its id and credential.
        proved: whether who is signed in proves just now that it is them.
    """

    __slots__ = (
        "began", "description", "draw", "key", "lifetime", "lock_for", "now", "own", "place", "proved",
        "room", "sent", "token", "version",
    )  # fmt: skip

    def __init__(
        self,
        own: dict[str, bytes],
        lock_for: bytes | None,
        lifetime: Lifetime | None,
        began: int = 0,
        description: bytes = b"",
    ) -> None:
        self.own = own
        self.lock_for = lock_for
        self.lifetime = lifetime
        self.began = began
        self.description = description
        self.token: Token | None = None
        self.key = ""
        self.version: Version | None = None
        self.place: Place | None = None
        self.now = 0
        self.sent = False
        self.room = 0
        self.draw: Callable[[], Token] = new_token
        self.proved = True

    def change(self, own: dict[str, bytes], lock_for: bytes | None) -> None:
        """Have it hold something else, under the id that was drawn for it."""
        if own != self.own or lock_for != self.lock_for:
            self.own, self.lock_for, self.version = own, lock_for, None


class Creator:
    """Creates the records of one manager."""

    __slots__ = ("_policy", "_sign_ins")

    def __init__(self, policy: Policy, sign_ins: SignIns) -> None:
        self._policy = policy
        self._sign_ins = sign_ins

    async def create(self, new: New, deadline: float) -> tuple[Token, Version]:
        """Create a record; if it was tried before, and cancelled, the same one again.

        Raises:
            SessionTooLarge, SignInRefused, StoreUnavailable.
        """
        store, backoff = self._policy.store, Backoff()
        while True:
            token, version = self.prepare(new)
            stored, place, tried = version.stored, new.place, new.sent
            if place is not None:
                await self._sign_ins.enter(place, deadline)
            new.sent = True
            try:
                answer = await store.create(new.key, stored.data, stored.expires_at, deadline=deadline)
                if answer is not TAKEN:
                    if place is not None and not await self._sign_ins.confirm(place, deadline):
                        raise revoked_meanwhile()
                    return token, version.tagged(answer.tag)
                if tried:
                    there = await store.load(new.key, deadline=deadline)
                    if there is not None and there.data == stored.data:  # the one before was carried out
                        if place is not None and not await self._sign_ins.confirm(place, deadline):
                            raise revoked_meanwhile()
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
            if place is not None:  # or its user's place could be taken by an id that nobody has
                await self._sign_ins.give_up_now(place, deadline)
            new.token = new.version = new.place = None
            new.sent = False
            await backoff.pause(deadline)

    def prepare(self, new: New) -> tuple[Token, Version]:
        """Draw the id of a record that is to be created, and encode it, unless that is done.

        Raises:
            SessionTooLarge: it would be.
            SessionSerializationError: who is signed in cannot be told.
        """
        policy = self._policy
        token = new.token
        if token is None:
            token, new.now = new.draw(), policy.clock()
        elif new.version is not None:
            return token, new.version
        key = policy.tokens.key(token.selector)
        since = new.now if new.proved else 0
        parts = self._sign_ins.parts(new.own, since, new.description) if policy.has_indexes else _NO_PARTS
        anonymous = policy.identity is not None and not identities.is_signed_in(parts)
        record = records.new_record(
            now=new.now,
            idle=policy.anonymous_idle if anonymous else policy.idle,
            absolute=policy.absolute,
            digest=policy.tokens.digest(token),
            check=policy.tokens.check(key),
            entries=new.own,
            parts=parts,
        )
        if new.lifetime is not None:
            record = new.lifetime.of(record)
        if new.lock_for is not None:
            record = leases.write(record, leases.new(new.lock_for, record.version, new.now))
        data = records.encode(record)
        size = len(data) + policy.overhead
        if size > policy.max_size and (new.room == 0 or records.body_size(record) > new.room):
            raise too_large(size, policy.max_size)
        if policy.sealer is not None:
            data = policy.sealer.seal(data, key)
        expires = expires_at(new.now, min(policy.unconfirmed, record.idle), record.deadline)
        new.token, new.key = token, key
        new.version = version = Version(record, Stored(data, data[:TAG_SIZE], expires))
        if parts or new.place is not None:
            self._have_place(new, record)
        return token, version

    def _have_place(self, new: New, record: Record) -> None:
        """Have a record that is to be created enter the indexes that it says it is in, and no others.

        That may be others than before: what goes along of a session in which somebody signs in is not known
        for sure until that has ended.
        """
        names, place, token = identities.names_of(record), new.place, new.token
        assert token is not None, "it has just been drawn"
        if place is not None and place.names == names:
            return
        if place is not None:
            self._sign_ins.leave(place.session_id, [name for name in place.names if name not in names])
        new.place = Place(token.selector, record, names, new.began or new.now) if names else None


_NO_PARTS: Final[dict[int, bytes]] = {}  # shared: nobody changes it
