"""Who is signed in: what each change of an identity key makes of id, credential, data, index and time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from asgi_session import ConfigurationError, Session, SessionError, SessionGone, SessionSerializationError
from asgi_session.errors import SignInRefused
from tests.inside import (
    credential,
    forget_fixation_warning,
    fresh_id,
    http_status,
    is_placeholder,
    owed_by,
    seal,
)
from tests.manager.kit import World


def world(**options: Any) -> World:
    return World(**{"identity": "user", **options})


async def listed(of: World, user: Any = "ada") -> list[str]:
    """Return the ids of a user's sessions, as a process of its own lists them."""
    found = [info.id async for info in of.process().sessions_of(user)]
    await of.manager.drain()
    return found


async def signed_in(of: World, user: Any = "ada", **more: Any) -> str:
    """Sign somebody in, from nobody and without a cookie, and come back once; return the token."""
    return await of.new(user=user, **more)


async def test_nobody_to_somebody() -> None:
    """A new id and credential; the data goes along, less `forget_at_login`; the old cookie is dead."""
    of = world(forget_at_login=("csrf",))
    old = await of.new(cart=[1], csrf="x")
    session = await of.load(old)
    session["user"] = "ada"
    await session.commit()
    new = credential(session)
    assert new[:22] != old[:22]
    assert owed_by(session) == "cookie"
    assert dict(session) == {"cart": [1], "user": "ada"}
    assert await of.read(new) == {"cart": [1], "user": "ada"}
    assert await of.read(old) is None
    assert await listed(of) == [session.id]
    assert session.authenticated_at is not None
    assert session.authenticated_at.timestamp() * 1000 == of.clock()


async def test_what_is_forgotten_can_be_set_anew() -> None:
    """A key of `forget_at_login` that the sign-in sets itself stays."""
    of = world(forget_at_login=("csrf",))
    session = await of.load(await of.new(csrf="planted"))
    session.update(user="ada", csrf="fresh")
    await session.commit()
    assert await of.read(credential(session)) == {"user": "ada", "csrf": "fresh"}


async def test_data_that_others_save_meanwhile_goes_along() -> None:
    """Promise 4: what another request has saved before the old session ends is part of the new one."""
    of = world()
    old = await of.new(cart=[1])
    session, other = await of.load(old), await of.load(old, of.process())
    other["theme"] = "dark"
    await other.commit()
    session["user"] = "ada"
    await session.commit()
    assert await of.read(credential(session)) == {"cart": [1], "theme": "dark", "user": "ada"}
    assert dict(session) == {"cart": [1], "theme": "dark", "user": "ada"}


async def test_the_same_again() -> None:
    """Nothing happens: same id, same credential, no cookie, unchanged time."""
    of = world()
    token = await signed_in(of)
    of.clock.advance(100)
    session = await of.load(token)
    since = session.authenticated_at
    session["user"] = "ada"
    session["seen"] = 1
    await session.commit()
    assert (credential(session), owed_by(session)) == (token, "nothing")
    assert session.authenticated_at == since
    assert await listed(of) == [token[:22]]


async def test_numbers_and_uuids_are_text() -> None:
    """7 and "7" are one user; a UUID is its text."""
    of = world()
    token = await signed_in(of, 7)
    session = await of.load(token)
    session["user"] = "7"
    await session.commit()
    assert credential(session) == token
    assert await listed(of, 7) == await listed(of, "7") == [token[:22]]
    key = UUID(int=5)
    uuid = await signed_in(of, key)
    assert await listed(of, str(key)) == await listed(of, key) == [uuid[:22]]


@pytest.mark.parametrize("value", [1.5, True, b"ada", ["ada"], {"id": 1}])
async def test_what_cannot_be_a_principal(value: Any) -> None:
    """It is refused by name, in a new session and in a living one, and nothing is written."""
    of = world()
    for session in (await of.session().load(), await of.load(await of.new(cart=1))):
        session["user"] = value
        with pytest.raises(SessionSerializationError, match="identity: who is signed in must be"):
            await session.commit()
    assert len(of.memory) == 1


async def test_somebody_to_another() -> None:
    """Only what was set in this request goes along; each is listed where it belongs."""
    of = world()
    old = await signed_in(of, secret="ada's", theme="dark")
    session = await of.load(old)
    session.update(user="bob", theme="light")
    await session.commit()
    await of.manager.drain()
    new = credential(session)
    assert new[:22] != old[:22]
    assert dict(session) == {"user": "bob", "theme": "light"}
    assert await of.read(new) == {"user": "bob", "theme": "light"}
    assert await of.read(old) is None
    assert (await listed(of, "ada"), await listed(of, "bob")) == ([], [session.id])


async def test_somebody_to_nobody() -> None:
    """Without anything set in the request the session ends, and the cookie is deleted."""
    of = world()
    old = await signed_in(of, secret="ada's")
    session = await of.load(old)
    del session["user"]
    await session.commit()
    await of.manager.drain()
    assert dict(session) == {}
    assert (session.id, owed_by(session)) == (None, "deletion")
    assert await of.read(old) is None
    assert await listed(of) == []


@pytest.mark.parametrize("nobody", [None, ""])
async def test_somebody_to_nobody_with_something_set(nobody: Any) -> None:
    """What was set goes on in a session of nobody's, under a new id; None and "" are nobody."""
    of = world()
    old = await signed_in(of, secret="ada's")
    session = await of.load(old)
    session["user"] = nobody
    session["flash"] = "bye"
    await session.commit()
    assert await of.read(credential(session)) == {"user": nobody, "flash": "bye"}
    assert session.authenticated_at is None
    assert await of.read(old) is None


async def test_clear_then_somebody() -> None:
    """What Starlette's login code does: a new id, and listed."""
    of = world()
    old = await signed_in(of, "bob", secret="bob's")
    session = await of.load(old)
    session.clear()
    session["user"] = "ada"
    await session.commit()
    await of.manager.drain()
    assert await of.read(credential(session)) == {"user": "ada"}
    assert (await listed(of, "bob"), await listed(of)) == ([], [session.id])


async def test_rotate_then_somebody() -> None:
    """Login code that rotates by itself gets a new id all the same, and rotates no second time."""
    of = world()
    old = await of.new(cart=1)
    session = await of.load(old)
    session.rotate()
    session["user"] = "ada"
    await session.commit()
    assert session.id != old[:22]
    assert not session.modified
    assert await of.read(credential(session)) == {"cart": 1, "user": "ada"}


async def test_a_further_key() -> None:
    """Another role: same id, same time, new credential at once; the same role again changes nothing."""
    of = world(identity=("user", "role"))
    old = await signed_in(of, role="staff", secret=1)
    session = await of.load(old)
    since = session.authenticated_at
    session["role"] = "admin"
    await session.commit()
    new = credential(session)
    assert (new[:22], new != old) == (old[:22], True)
    assert session.authenticated_at == since
    assert await of.read(old) is None
    assert await listed(of) == [session.id]
    again = await of.load(new)
    again["role"] = "admin"
    again["x"] = 1
    await again.commit()
    assert credential(again) == new


async def test_parallel_changes_of_role_never_make_a_session_of_nobodys() -> None:
    """Of two that change it at once one is dropped: its own keys are no session without a user."""
    of = world(identity=("user", "role"))
    old = await signed_in(of, role="staff")
    one, other = await of.load(old), await of.load(old, of.process())
    one["role"], other["role"] = "admin", "root"
    await one.commit()
    with pytest.raises(SessionGone):
        await other.commit()
    assert len(of.memory) == 2  # the session and the index
    assert await of.read(credential(one)) == {"user": "ada", "role": "admin"}


@pytest.mark.parametrize("identity", ["user.sub", lambda values: values.get("user", {}).get("sub")])
async def test_paths_and_functions(identity: Any) -> None:
    """What differs at every login may lie beside the key that counts."""
    of = world(identity=identity)
    token = await of.new(user={"sub": "ada", "at": 1})
    session = await of.load(token)
    session["user"]["at"] = 2
    await session.commit()
    assert credential(session) == token
    assert await listed(of) == [token[:22]]
    session["user"] = {"sub": "bob"}
    await session.commit()
    await of.manager.drain()
    assert (await listed(of), await listed(of, "bob")) == ([], [session.id])


async def test_a_path_through_something_else() -> None:
    """It is said which key is no dict."""
    of = world(identity="user.sub")
    session = await of.session().load()
    session["user"] = "ada"
    with pytest.raises(SessionSerializationError, match=r"session\['user'\] is not a dict"):
        await session.commit()


async def change_late(session: Session) -> None:
    seal(session)
    session["user"] = "bob"
    await session.commit()


async def change_in_transact(session: Session) -> None:
    await session.transact(lambda draft: draft.update(user="bob"))


async def change_in_async_transact(session: Session) -> None:
    async def become(draft: Session) -> None:
        draft["user"] = "bob"

    await session.transact(become)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (change_late, "after the response has started"),
        (change_in_transact, "in a transaction"),
        (change_in_async_transact, "in a transaction"),
    ],
)
@pytest.mark.parametrize("before", [{"user": "ada"}, {"cart": 1}])
async def test_where_no_cookie_can_follow(change: Any, where: str, before: dict[str, Any]) -> None:
    """It is an error that says where, and nothing is written."""
    of = world()
    token = await of.new(**before)
    with pytest.raises(SessionError, match=f"who is signed in cannot be changed {where}"):
        await change(await of.load(token))
    assert await of.read(token) == before


async def test_a_new_session_in_a_transaction() -> None:
    """Nor does a transaction sign anybody in that begins a session."""
    of = world()
    session = await of.session().load()
    with pytest.raises(SessionError, match="in a transaction"):
        await session.transact(lambda draft: draft.update(user="ada"))
    assert len(of.memory) == 0


async def test_from_outside_a_request() -> None:
    """`manager.session` and `manager.lock` cannot change who is signed in; other keys they can."""
    of = world()
    token = await signed_in(of)
    for way in (of.manager.session, of.manager.lock):
        with pytest.raises(SessionError, match="outside a request"):
            async with way(token[:22]) as session:
                session["user"] = "bob"
        async with way(token[:22]) as session:
            session["note"] = "seen"
    assert await of.read(token) == {"user": "ada", "note": "seen"}


async def test_from_before_the_option() -> None:
    """A session that was made before `identity` was given goes on: it is not listed, and not signed out."""
    of = World()
    token = await of.new(user="ada", cart=1)
    of.options["identity"] = "user"
    manager = of.process()
    session = await of.load(token, manager)
    session["user"], session["cart"] = "ada", 2
    await session.commit()
    assert credential(session) == token
    assert await listed(of) == []
    session = await of.load(token, manager)
    session["user"] = "bob"
    await session.commit()
    assert await of.read(credential(session)) == {"user": "bob"}
    assert await listed(of, "bob") == [session.id]


@pytest.mark.parametrize("how", ["rotate", "clear", "sign in"])
async def test_a_sign_in_with_a_dead_cookie(how: str) -> None:
    """Promise 8: it is not lost, goes on under a new id with what it has set, and is listed."""
    of = world()
    old = await of.new(cart=1)
    session = await of.load(old)
    if how == "sign in":
        session["user"] = "bob"
    else:
        getattr(session, how)()
    await session.commit()
    late = await of.load(old)
    assert dict(late) == {}
    late["user"] = "ada"
    late["theme"] = "dark"
    await late.commit()
    await of.manager.drain()
    new = credential(late)
    assert (new[:22] != old[:22], owed_by(late)) == (True, "cookie")
    assert await of.read(new) == {"user": "ada", "theme": "dark"}
    assert await listed(of) == [new[:22]]
    if how == "sign in":
        assert await listed(of, "bob") == [session.id]


async def test_what_is_no_sign_in_with_a_dead_cookie() -> None:
    """Other keys are dropped, as ever; and so is a sign-in after the headers have left."""
    of = world()
    old = await of.new(cart=1)
    session = await of.load(old)
    session.rotate()
    await session.commit()
    for late, values in ((False, {"cart": 2}), (False, {"user": None, "cart": 2}), (True, {"user": "ada"})):
        dead = await of.load(old)
        if late:
            seal(dead)
        dead.update(values)
        with pytest.raises(SessionGone):
            await dead.commit()
        assert owed_by(dead) == "nothing"
    assert len(of.memory) == 1
    assert await of.read(credential(session)) == {"cart": 1}


async def test_reauthenticated() -> None:
    """The time is noted and the credential renewed, at once; nobody's session cannot."""
    of = world()
    old = await signed_in(of, cart=1)
    of.clock.advance(1000)
    session = await of.load(old)
    await session.reauthenticated()
    new = credential(session)
    assert (new[:22], new != old) == (old[:22], True)
    again = await of.load(new)
    assert again.authenticated_at is not None
    assert again.authenticated_at.timestamp() * 1000 == of.clock()
    assert await of.read(old) is None
    assert dict(again) == {"user": "ada", "cart": 1}
    nobodys = await of.load(await of.new(cart=1))
    with pytest.raises(SessionError, match="nobody is signed in"):
        await nobodys.reauthenticated()
    late = await of.load(new)
    seal(late)
    with pytest.raises(SessionError, match="after the response had started"):
        await late.reauthenticated()
    async with of.manager.session(new[:22]) as outside:
        with pytest.raises(SessionError, match="outside a request"):
            await outside.reauthenticated()


async def test_reauthenticated_from_before_the_option() -> None:
    """A session from before `identity` was given goes on under a new id, listed, with the time."""
    of = World()
    old = await of.new(user="ada", cart=1)
    of.options["identity"] = "user"
    session = await of.load(old, of.process())
    assert (session.principal, session.authenticated_at) == ("ada", None)
    session["seen"] = 1
    await session.reauthenticated()
    await of.manager.drain()
    new = credential(session)
    assert (new[:22] != old[:22], owed_by(session)) == (True, "cookie")
    assert dict(session) == {"user": "ada", "cart": 1, "seen": 1}
    assert session.authenticated_within(1)
    assert await listed(of) == [new[:22]]
    assert await of.read(old) is None


async def test_principal() -> None:
    """Who is signed in, as text, by the values as they are: saved or not; None when nobody is."""
    of = world(identity=("user.sub", "role"))
    session = await of.session().load()
    assert session.principal is None
    session["user"] = {"sub": 7}
    assert session.principal == "7"
    await session.commit()
    session = await of.load(credential(session))
    assert session.principal == "7"
    assert not session.modified
    session["user"]["sub"] = UUID(int=5)
    assert session.principal == str(UUID(int=5))
    session.discard()
    assert session.principal == "7"
    session.clear()
    assert session.principal is None
    session.destroy()
    assert session.principal is None


async def test_principal_decodes_nothing_else() -> None:
    """What `identity` does not look at stays encoded, and nothing is watched for changes."""
    of = world()
    session = await of.load(await signed_in(of, cart=[1]))
    assert session.principal == "ada"
    assert {key for key in ("user", "cart") if is_placeholder(dict.get(session, key))} == {"user", "cart"}


async def test_principal_without_the_option() -> None:
    """Without `identity` nobody can tell: an error, rather than nobody for ever."""
    session = await World().session().load()
    with pytest.raises(ConfigurationError, match="identity='user_id'"):
        session.principal  # noqa: B018
    with pytest.raises(ConfigurationError, match="identity='user_id'"):
        session.authenticated_within(1)


async def test_authenticated_within() -> None:
    """Counts from the sign-in, or from when it was proved again, by the manager's clock."""
    of = world()
    session = await of.session().load()
    session["user"] = "ada"
    assert not session.authenticated_within(600)  # not yet
    await session.commit()
    token = credential(session)
    of.clock.advance(600)
    session = await of.load(token)
    assert session.authenticated_within(600)
    of.clock.advance(0.001)
    assert not session.authenticated_within(600)
    await session.reauthenticated()
    assert session.authenticated_within(timedelta(seconds=1))
    del session["user"]
    assert not session.authenticated_within(600)
    for nonsense in (0, -1, "x"):
        with pytest.raises(ConfigurationError, match="authenticated_within="):
            session.authenticated_within(nonsense)  # type: ignore[arg-type]


async def test_nobodys_sessions_last_less_long() -> None:
    """`anonymous_idle_timeout` counts until somebody signs in."""
    of = world(anonymous_idle_timeout=60, idle_timeout=3600, unconfirmed_timeout=10)
    nobodys = await of.new(cart=1)
    assert await of.expiry(nobodys) == of.clock() + 60_000
    session = await of.load(nobodys)
    session["user"] = "ada"
    await session.commit()
    token = credential(session)
    await of.load(token)
    await of.manager.drain()
    assert await of.expiry(token) == of.clock() + 3600_000


async def test_in_a_lock() -> None:
    """A sign-in under the session's lock goes on locked, under the new id."""
    of = world()
    old = await of.new(cart=1)
    session = await of.load(old)
    async with session.lock():
        session["user"] = "ada"
        await session.commit()
        assert session.id != old[:22]
        session["cart"] = 2
    assert await of.read(credential(session)) == {"user": "ada", "cart": 2}
    async with of.process().lock(session.id or "", wait=0):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"identity": ""}, "identity=''"),
        ({"identity": "a..b"}, "identity='a..b'"),
        ({"identity": ()}, "name at least one key"),
        ({"identity": 5}, "identity=5"),
        ({"identity": ["a", 5]}, "identity=5"),
        ({"identity": "user", "merge": {"user": lambda b, m, t: m}}, r"merge\['user'\]"),
        ({"index": ("sid",), "merge": {"sid": lambda b, m, t: m}}, r"merge\['sid'\]"),
        ({"index": "sid"}, "index='sid'"),
        ({"forget_at_login": "csrf"}, "forget_at_login='csrf'"),
        ({"forget_at_login": [5]}, "forget_at_login"),
        ({"max_sessions_per_user": 0}, "max_sessions_per_user=0"),
        ({"max_sessions_per_user": 1001}, "max_sessions_per_user=1001"),
        ({"max_sessions_per_user": True}, "max_sessions_per_user=True"),
        ({"on_max_sessions": "x"}, "on_max_sessions='x'"),
        ({"describe": "x"}, "describe='x'"),
        ({"anonymous_idle_timeout": 0}, "anonymous_idle_timeout"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    """Each is refused by name when it is given."""
    with pytest.raises(ConfigurationError, match=message):
        World(**options)


async def test_a_user_of_a_manager_without_identity() -> None:
    """What needs the option says so."""
    of = World()
    for ask in (of.manager.revoke_user("ada"), of.manager.revoke(fresh_id(), principal="ada")):
        with pytest.raises(ConfigurationError, match="identity="):
            await ask
    with pytest.raises(ConfigurationError, match="identity="):
        [_ async for _ in of.manager.sessions_of("ada")]
    with pytest.raises(ConfigurationError, match=r"index=\('sid',\)"):
        await of.manager.revoke_where(sid="1")
    with pytest.raises(ValueError, match="that is nobody"):
        await world().manager.revoke_user("")


def test_refused_is_409() -> None:
    """A sign-in that is refused is a conflict, not a failure of the server."""
    assert http_status(SignInRefused("x")) == 409


async def test_a_change_inside_a_value_is_saved_once_by_a_sign_in() -> None:
    """What goes along is no change any more afterwards."""
    of = world()
    session = await of.load(await of.new(cart=[1], theme={"a": 1}))
    session["cart"].append(2)
    assert session["theme"] == {"a": 1}
    session["user"] = "ada"
    await session.commit()
    assert not session.modified
    session["theme"]["a"] = 2
    await session.commit()
    assert await of.read(credential(session)) == {"cart": [1, 2], "theme": {"a": 2}, "user": "ada"}


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "session fixation" in record.getMessage()]


async def test_a_sign_in_that_keeps_its_id_is_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `identity`: once per process, and it names the key and the way out."""
    forget_fixation_warning(monkeypatch)
    of = World()
    tokens = [await of.new(cart=1) for _ in range(3)]
    for token, manager in zip(tokens, (of.manager, of.manager, of.process()), strict=True):
        session = await of.load(token, manager)
        session["user_id"] = 7
        await session.commit()
    (text,) = warnings_of(caplog)
    assert "session['user_id'] was set in a session that keeps its id" in text
    assert "identity='user_id'" in text


@pytest.mark.parametrize("safe", ["a new session", "rotated", "cleared", "another key", "identity"])
async def test_what_is_not_warned_of(
    safe: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that gets another credential, a key that says nothing, and an app that has named its own."""
    forget_fixation_warning(monkeypatch)
    of = World(**({"identity": "user_id"} if safe == "identity" else {}))
    if safe == "a new session":
        session = await of.session().load()
    else:
        session = await of.load(await of.new(cart=1))
    if safe == "rotated":
        session.rotate()
    if safe == "cleared":
        session.clear()
    session["theme" if safe == "another key" else "user_id"] = 7
    await session.commit()
    assert warnings_of(caplog) == []
