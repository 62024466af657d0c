"""`SessionManager`: an app's sessions, and the way in from outside a request."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from inspect import signature
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias, TypedDict, Unpack
from uuid import UUID
from weakref import WeakMethod, finalize

from asgi_session._data.identity import IdentityKey, principal_text
from asgi_session._data.rules import Rule
from asgi_session._data.sealing import Unsealed
from asgi_session._data.token import is_selector, new_token
from asgi_session._engine.engine import Engine
from asgi_session._engine.session_info import SessionInfo, info_of
from asgi_session._options import unknown
from asgi_session._policy import Describe, Key, OnEvent, Policy
from asgi_session._secret import Wrapped, hidden
from asgi_session._session.session import Session
from asgi_session.clock import Clock, system_clock
from asgi_session.errors import ConfigurationError, SessionGone, StoreUnavailable
from asgi_session.store import Back, Lost, Reconnected, Report, Reports, Store

Principal: TypeAlias = str | int | UUID
"""Who is signed in; 7 and ``"7"`` are the same."""

logger: Final = logging.getLogger("asgi_session")


class _NoOthers(TypedDict):
    """No further options: what is not known to type checkers is refused with a helpful text."""


class SessionManager:
    """An app's sessions: how they are kept, and what can be done with them outside requests.

    Args:
        store: a `Store`, or a URL: ``memory://``, ``redis://``, ``redis+cluster://``,
            ``redis+sentinel://``, ..., which may be wrapped in Starlette's `Secret` or pydantic's
            `SecretStr`. A store made from a URL is closed by `close`.
        secret_key: one key or several, each at least 16 bytes. With keys, cookies are signed with
            the first and accepted with any; a forged cookie then costs the store nothing. Text, bytes, or
            either wrapped as above, which keeps it out of tracebacks and logs. Default
            None: not signed, which is as safe (the verifier has 128 random bits), but a forged
            cookie costs one read. Setting keys ends all sessions whose cookies were not signed.
        encryption_key: one key or several, each at least 32 random bytes, given as `secret_key` is. With
            keys, records are sealed: the store can neither read nor change what a session holds. The first
            key seals, each opens what was sealed with it. Takes the extra ``asgi-session[encryption]``, 20
            bytes a record, and 2 to 5 µs for each load and each save. A record that none of the keys opens
            is `SessionCorrupt`, whatever `on_corrupt` says. Default None: not sealed.
        unsealed: what becomes of records that are not sealed, beside an `encryption_key`. ``"refuse"``
            (default): `SessionCorrupt`. ``"accept"``: they are read, and sealed when they are next saved;
            whoever can write to the store can then put forged ones there. ``"write"``: they are read and
            written, and sealed ones are read. Each that is read is an event, ``unsealed``.
        idle_timeout: how long a session lasts unused. timedelta or seconds; default 14 days.
        absolute_timeout: how long it lasts at most. timedelta or seconds; default 90 days. (OWASP
            Session Management Cheat Sheet, "Session Expiration", asks for both.)
        unconfirmed_timeout: how long a new session lasts until its cookie has come back once.
            timedelta or seconds; default 1 hour. Keeps clients without cookies from filling the store.
        max_size: of one session in the store, bytes; default 65,536.
        deadline: for everything that one request may wait on the store. timedelta or seconds;
            default 5 seconds.
        namespace: the sessions of one namespace are not there for another, neither by a cookie nor by an
            id, on the same store; default ``"default"``.
        on_unavailable: ``"fail"`` (default): an error, which the middleware answers with 503.
            ``"anonymous"``: a session that cannot be loaded reads as empty; changing it is an error.
        on_corrupt: ``"raise"`` (default) `SessionCorrupt`, or ``"new"``: go on with a new session
            under a new id. The unreadable bytes stay in the store either way. A seal that is not right is
            always an error.
        rotate_every: how old a session's credential may become: a request that comes with an older one gets
            a new cookie with its response, and the old one ends when the new one has come back. timedelta
            or seconds, at least a minute; default None: only `rotate` gives a new one. Costs two saves each
            time: one that hands out the new one, and one, which no response waits for, when that has come
            back.
        on_replay: what becomes of a session when a cookie comes that a rotation has replaced for good: a
            stolen one, or one out of a backup. ``"report"`` (default): the event ``replayed``.
            ``"end"``: the session ends as well, for whoever has the newest cookie, too.
        save_on_error: commit also when the response is >= 500 or an exception escapes; default False.
        merge: rules by key, ``rule(base, mine, theirs)``: the value of a key that this request and
            another one have both changed; see `asgi_session.merging` for ready-made ones. A key that
            is not there is given as None, and a rule that returns None removes the key.
        on_conflict: what becomes of such a key without a rule. ``"mine"`` (default): mine wins.
            ``"raise"``: `SessionConflict`, and nothing of that commit is written.
        check: what a store that is set up wrongly (wrong password, kind of server or rights: what never
            heals by itself) does to the start of the app. ``"warn"`` (default): an error in the log.
            ``"refuse"``: `ConfigurationError`, and the app does not start. A store that is merely away
            never stops it.
        identity: which key says who is signed in: ``"user_id"``, a path (``"user.sub"``), a function of the
            session's values, or several of these. The first names the *principal*, a str, int or UUID. When
            it changes, the session goes on under a new id and with a new credential, so that a cookie
            which somebody has planted before a login is worth nothing after it (session fixation; OWASP
            Session Management Cheat Sheet, "Renew the Session ID After Any Privilege Level Change"):
            signing in keeps the data, becoming another or signing out drops what was not set in the same
            request. A change of a further key (a role) gives a new credential. Sessions can then be listed
            and revoked by user. A sign-in costs 3 store commands more. Default None: no key does.
        forget_at_login: keys that do not go along when somebody signs in, say a CSRF token.
        max_sessions_per_user: so many sessions one user can have at a time, 1 to 1,000; default 100.
        on_max_sessions: what becomes of a sign-in beyond that: ``"evict"`` (default) ends the oldest sign-in,
            ``"refuse"`` raises `SignInRefused`, which the middleware answers with 409.
        index: further keys by which `revoke_where` finds sessions, say the ``sid`` of an identity provider.
            Each costs a new session 3 store commands more.
        describe: a function of the connection, called when a session begins: says in a few words who it
            comes from, say an IP address and a browser, for the user's list of sessions. At most 256 bytes
            are kept. When a later request is described in other words, that is an event (``moved``).
        anonymous_idle_timeout: the idle timeout while nobody is signed in, where `identity` is given;
            timedelta or seconds, default 1 day. Never longer than `idle_timeout`.
        on_event: called as ``on_event(name, session_id, connection=..., **info)`` for everything that
            happens; see the documentation for the names. `connection` is Starlette's `HTTPConnection`
            of the request, or None outside of one. Must be quick; what it raises is logged.
        clock: tells the time in ms since the Unix epoch; for tests.

    Raises:
        ConfigurationError: an option, or a combination, that cannot work; says what to change.
    """

    def __init__(
        self,
        store: Store | str | Wrapped,
        *,
        secret_key: Key | Sequence[Key] | None = None,
        encryption_key: Key | Sequence[Key] | None = None,
        unsealed: Unsealed = "refuse",
        idle_timeout: float | timedelta = timedelta(days=14),
        absolute_timeout: float | timedelta = timedelta(days=90),
        unconfirmed_timeout: float | timedelta = timedelta(hours=1),
        max_size: int = 64 * 1024,
        deadline: float | timedelta = 5.0,
        namespace: str = "default",
        on_unavailable: Literal["fail", "anonymous"] = "fail",
        on_corrupt: Literal["raise", "new"] = "raise",
        rotate_every: float | timedelta | None = None,
        on_replay: Literal["report", "end"] = "report",
        save_on_error: bool = False,
        merge: Mapping[str, Rule] | None = None,
        on_conflict: Literal["mine", "raise"] = "mine",
        check: Literal["warn", "refuse"] = "warn",
        identity: IdentityKey | Sequence[IdentityKey] | None = None,
        forget_at_login: Sequence[str] = (),
        max_sessions_per_user: int = 100,
        on_max_sessions: Literal["evict", "refuse"] = "evict",
        index: Sequence[str] = (),
        describe: Describe | None = None,
        anonymous_idle_timeout: float | timedelta = timedelta(days=1),
        on_event: OnEvent | None = None,
        clock: Clock = system_clock,
        **options: Unpack[_NoOthers],
    ) -> None:
        if options:
            known = [name for name in signature(SessionManager).parameters if name != "options"]
            names = list(options)
            del store, secret_key, encryption_key, options  # error trackers record the local variables
            raise unknown("SessionManager", names, known)
        store, secret_key, encryption_key = hidden(store), hidden(secret_key), hidden(encryption_key)
        self._policy = policy = Policy(
            store,
            secret_key=secret_key,
            encryption_key=encryption_key,
            unsealed=unsealed,
            idle_timeout=idle_timeout,
            absolute_timeout=absolute_timeout,
            unconfirmed_timeout=unconfirmed_timeout,
            max_size=max_size,
            deadline=deadline,
            namespace=namespace,
            on_unavailable=on_unavailable,
            on_corrupt=on_corrupt,
            on_replay=on_replay,
            rotate_every=rotate_every,
            save_on_error=save_on_error,
            merge=merge,
            on_conflict=on_conflict,
            check=check,
            identity=identity,
            forget_at_login=forget_at_login,
            max_sessions_per_user=max_sessions_per_user,
            on_max_sessions=on_max_sessions,
            index=index,
            describe=describe,
            anonymous_idle_timeout=anonymous_idle_timeout,
            on_event=on_event,
            clock=clock,
        )
        if isinstance(policy.store, Reports):
            self._hear_of(policy.store)
        self._engine = Engine(policy)

    @property
    def store(self) -> Store:
        """The store: the one that was given, or the one made from the URL."""
        return self._policy.store

    # ---------------------------------------------------------------- life

    async def open(self) -> None:
        """Connect and check the set-up. Optional: the first use does what is necessary.

        Raises:
            ConfigurationError: the store is set up wrongly, which never heals by itself.
            StoreUnavailable: the store cannot be reached.
            SessionCorrupt: what `revoke_all` has saved cannot be read, say because its `encryption_key` is
                missing: nobody knows which sessions are still good.
        """
        await self._policy.store.open()
        await self._engine.cutoff.look()

    async def ping(self) -> None:
        """Ask the store for a sign of life, for readiness probes; costs what a load costs.

        In a cluster a shard that is drawn at random is asked.

        Raises:
            StoreUnavailable: the store did not answer within the deadline, or refused.
        """
        await self._policy.store.load(new_token().selector, deadline=time.monotonic() + self._policy.deadline)

    async def close(self) -> None:
        """Wait for the saves on their way, then close the store if it was made from a URL."""
        await self.drain()
        self._engine.loops.current().locks.close()
        if self._policy.owns_store:
            await self._policy.store.close()

    async def drain(self) -> None:
        """Wait for the saves on their way in this event loop; they end with their deadlines."""
        await self._engine.loops.current().drain()

    async def __aenter__(self) -> Self:
        """Open. A store that is away is only a warning, since the app can serve once it is there.

        Raises:
            ConfigurationError: the store is set up wrongly, and ``check="refuse"`` was given.
        """
        try:
            await self.open()
        except StoreUnavailable as error:
            logger.warning("the session store cannot be reached: %s", error)
        except ConfigurationError as error:
            if self._policy.refuses:
                await self.close()
                raise
            # Without a traceback: it would show where this was found, not what to change.
            logger.error("the session store is set up wrongly: sessions will not work: %s", error)  # noqa: TRY400
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---------------------------------------------------------------- from outside a request

    def lock(
        self,
        session_id: str,
        *,
        wait: float | timedelta = 10.0,
        lease: float | timedelta = 30.0,
        max_hold: float | timedelta = 300.0,
    ) -> AbstractAsyncContextManager[Session]:
        """Hold a session's lock outside a request, by its public id (`Session.id`); see `Session.lock`.

        ``async with manager.lock(session_id) as session:`` gives the loaded session. What is saved does
        not extend its expiry, and it can get no new cookie: no `rotate`, no `clear`, and of `set_lifetime`
        no `persistent`. In a block of `Session.lock` of the same session it would wait for itself.

        Raises:
            ValueError: this is not a session id, or a duration makes no sense.
            SessionGone: there is no such session.
        """
        _check_id(session_id)
        return self._engine.lock_outside(session_id, wait, lease, max_hold)

    @asynccontextmanager
    async def session(self, session_id: str) -> AsyncGenerator[Session]:
        """Change a session outside a request, by its public id (`Session.id`).

        ``async with manager.session(session_id) as session:`` gives the loaded session, and saves what was
        changed when the block ends; an exception that leaves it saves nothing. What requests change at the
        same time is merged, as ever. It is no use by the client: its expiry stays. It can get no new cookie:
        no `rotate`, no `clear`, and who is signed in cannot be changed.

        Raises:
            ValueError: this is not a session id.
            SessionGone: there is no such session.
            StoreUnavailable, SessionCorrupt; and what `Session.commit` raises.
        """
        session = await self._engine.outside(_check_id(session_id))
        yield session
        await session.commit()

    async def get(self, session_id: str) -> Session | None:
        """Read a session from outside a request, by its public id; None when there is none.

        Costs one load: no lock, no write, no touch. To change it use `session` or `lock`.

        Raises:
            ValueError: this is not a session id.
            StoreUnavailable, SessionCorrupt.
        """
        try:
            return await self._engine.outside(_check_id(session_id))
        except SessionGone:
            return None

    async def revoke(self, session_id: str, *, principal: Principal | None = None) -> bool:
        """End a session from outside, by its public id (`Session.id`); whether there was one.

        Its record is deleted: requests in flight can no longer save to it. When a reply of the store
        was lost, so that nobody can tell who has deleted it, the answer is True.

        Args:
            session_id: whose id it is does not matter, unless you say so.
            principal: end it only if it is this user's: for ids that come from the client. Another user's
                stays as it is, and the answer is False.

        Raises:
            ValueError: this is not a session id.
            ConfigurationError: `principal` was given, and no `identity` is configured.
            StoreUnavailable: the store did not answer within the deadline.
            SessionCorrupt: `principal` was given, and whose it is cannot be read.
        """
        _check_id(session_id)
        deadline, members = self._policy.wait_until(), self._engine.members
        if principal is None:
            return await members.delete(session_id, deadline)
        name = self._name_of(principal)
        ended = await members.end(name, session_id, deadline)
        if ended:
            self._engine.sign_ins.leave(session_id, [name])
        return ended

    # ---------------------------------------------------------------- a user's sessions

    async def sessions_of(
        self, principal: Principal, *, current: Session | str | None = None
    ) -> AsyncIterator[SessionInfo]:
        """Give the sessions of a user that live, the oldest sign-in first.

        Each is looked up in the store, all at once: n sessions cost n + 1 loads. What has ended disappears
        from the index on the way.

        Args:
            principal: who; 7 and ``"7"`` are the same.
            current: the session that asks, or its id: that one's `SessionInfo.current` is True.

        Raises:
            ConfigurationError: no `identity` is configured.
            StoreUnavailable: the store did not answer within the deadline.
            SessionCorrupt: the user's index cannot be read. A session that cannot is left out, and stays.
        """
        name = self._name_of(principal)
        own = current.id if isinstance(current, Session) else current
        for entry, version in await self._engine.members.members(name, self._policy.wait_until()):
            yield info_of(entry.id, version, current=entry.id == own)

    async def revoke_user(self, principal: Principal, *, except_: str | None = None) -> int:
        """End all sessions of a user, or all but one; return how many there were.

        A session whose sign-in was answered before this is called does not survive its return. A sign-in that
        is on its way, so that it may have checked the old password, is refused (`SignInRefused`); so is one,
        in the next minute, whose request began before.

        Args:
            principal: who; 7 and ``"7"`` are the same.
            except_: the id of a session that stays, say the one that changes the password.

        Raises:
            ValueError: `except_` is not a session id.
            ConfigurationError: no `identity` is configured.
            StoreUnavailable: the store did not answer within the deadline. Some sessions may have ended;
                call it again.
            SessionCorrupt: the user's index cannot be read; or a session cannot, and all others have ended.
        """
        if except_ is not None:
            _check_id(except_)
        return await self._engine.members.revoke(self._name_of(principal), except_, self._policy.wait_until())

    async def revoke_where(self, **where: Principal) -> int:
        """End all sessions in which a key has a value; return how many there were.

        ``await manager.revoke_where(oidc_sid="...")``, with ``index=("oidc_sid",)``; promises what
        `revoke_user` does. For the back-channel logout of an identity provider (OpenID Connect Back-Channel
        Logout 1.0, section 2.7).

        Raises:
            ConfigurationError: the key is not one of `index`; or not exactly one was given.
            StoreUnavailable: as for `revoke_user`.
        """
        if len(where) != 1:
            raise ConfigurationError("revoke_where() takes exactly one key and its value")
        ((key, value),) = where.items()
        if key not in self._policy.indexes:
            raise ConfigurationError(
                f"revoke_where({key}=...): sessions are not found by this key. Give SessionManager or "
                f"SessionMiddleware index=({key!r},)"
            )
        name = self._policy.tokens.index(key, _text_of(value, key))
        return await self._engine.members.revoke(name, None, self._policy.wait_until())

    async def revoke_all(self) -> None:
        """End every session of this namespace, the caller's own included: for a leak.

        Sessions created up to now are no longer good, wherever they come back. This process knows at once,
        the others within some 5 seconds (10, where nobody opens the manager), and one that starts later when
        it is opened. It costs no request anything: each process looks at one record every 5 seconds while it
        loads sessions. The records themselves expire in their time.

        "Up to now" is by the clocks of the processes that have created the sessions: where those run ahead,
        call it again a little later. Cookies that `migrate_from` accepts are no sessions yet.

        Raises:
            StoreUnavailable: the store did not answer within the deadline.
        """
        await self._engine.cutoff.raise_to_now()

    def _name_of(self, principal: Principal) -> bytes:
        """Return the name of a user's index."""
        if self._policy.identity is None:
            raise ConfigurationError(
                "sessions are not found by user: give SessionManager or SessionMiddleware identity=, the key "
                "that says who is signed in, say identity='user_id'"
            )
        return self._policy.tokens.index("identity", _text_of(principal, "principal"))

    def _hear_of(self, store: Reports) -> None:
        """Have the store's reports made events, as long as somebody has this manager."""
        hears = WeakMethod(self._reported)

        def tell(report: Report) -> None:
            reported = hears()
            if reported is not None:
                reported(report)

        finalize(self, store.report_to(tell)).atexit = False

    def _reported(self, report: Report) -> None:
        match report:
            case Lost():
                self._policy.failures.lost(report)
                self._policy.emit("store_lost", None, server=report.server, error=report.error)
            case Back():
                self._policy.failures.back(report)
                self._policy.emit(
                    "store_back", None, server=report.server, seconds=report.seconds, failed=report.failed
                )
            case Reconnected():
                self._policy.emit("store_reconnected", None, server=report.server)


def _text_of(value: Principal, name: str) -> str:
    text = principal_text(value, name)
    if text is None:
        raise ValueError(f"{name}: give the user's str, int or UUID, not {value!r}: that is nobody")
    return text


def _check_id(session_id: str) -> str:
    if not isinstance(session_id, str) or not is_selector(session_id):
        raise ValueError(
            "not a session id: give Session.id, the 22 characters, not the cookie's value; a new session has "
            "one after its commit()"
        )
    return session_id
