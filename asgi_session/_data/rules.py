"""What becomes of a key that two commits have both changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction, signature
from typing import Any, Literal, TypeAlias

from asgi_session._data import codec
from asgi_session._data.change import Change, Changes
from asgi_session._data.values import shown
from asgi_session.errors import SessionConflict

Rule: TypeAlias = Callable[[Any, Any, Any], Any]
"""``rule(base, mine, theirs)``: what becomes of a key that both sides have changed. A key that is not
there is given as None; a rule that returns None removes the key."""


def is_rule(rule: Any) -> bool:
    """Whether it can be called as a rule: a plain function of three."""
    if not callable(rule) or iscoroutinefunction(rule):
        return False
    try:
        signature(rule).bind(None, None, None)
    except TypeError:
        return False
    except ValueError:  # a builtin that does not tell
        return True
    return True


class Rules:
    """The rules of one manager.

    Attributes:
        by_key: a rule for each key that has one.
        on_conflict: what becomes of a key without: ``"mine"`` wins, or ``"raise"``.
        compares: whether there is another answer than that mine wins.
    """

    __slots__ = ("by_key", "compares", "on_conflict")

    def __init__(
        self,
        by_key: Mapping[str, Rule] | None = None,
        on_conflict: Literal["mine", "raise"] = "mine",
    ) -> None:
        self.by_key: Mapping[str, Rule] = by_key or {}
        self.on_conflict: Literal["mine", "raise"] = on_conflict
        self.compares: bool = bool(by_key) or on_conflict == "raise"


def merge(entries: dict[str, bytes], changes: Changes) -> dict[str, bytes]:
    """Return `entries` with `changes` applied."""
    merged: dict[str, Any] = {**entries, **changes}
    if None in changes.values():
        return {key: value for key, value in merged.items() if value is not None}
    return merged


def merge_by_rules(entries: dict[str, bytes], change: Change, rules: Rules) -> dict[str, bytes]:
    """Return `entries` with what the change asks, by the rules where both sides changed a key.

    Notes in ``change.overwritten`` what of others' is lost.
    """
    origins = change.origins
    change.overwritten = ()
    if origins is None or origins is entries:
        return merge(entries, change.changes)
    if not rules.compares:
        change.overwritten = overwritten(entries, change)
        return merge(entries, change.changes)
    lost: list[str] = []
    changes = dict(change.changes)
    for key, mine in change.changes.items():
        base, theirs = origins.get(key), entries.get(key)
        if theirs == base:
            continue
        rule = rules.by_key.get(key)
        if rule is not None:  # also for equal values: two that each add one both come to the same
            changes[key] = _by_rule(rule, key, base, mine, theirs)
        elif rules.on_conflict == "raise" and theirs != mine:
            raise SessionConflict(
                f"another request changed session[{shown(key)}] as well, so nothing was saved. Set the "
                "key to the value you want (`theirs` is the stored one), call discard() to drop your "
                "changes, or give the key a merge rule. refresh() alone keeps your value and would save it "
                "over theirs",
                key=key,
                mine=_value(mine),
                theirs=_value(theirs),
            )
        elif theirs != mine:
            lost.append(key)
    change.overwritten = lost
    return merge(entries, changes)


def overwritten(entries: Mapping[str, bytes], change: Change) -> list[str]:
    """Return the keys of which the change undoes one of others that it has not seen."""
    origins = change.origins
    if origins is None:
        return []
    return [
        key
        for key, mine in change.changes.items()
        if (theirs := entries.get(key)) != mine and theirs != origins.get(key)
    ]


def _by_rule(
    rule: Rule, key: str, base: bytes | None, mine: bytes | None, theirs: bytes | None
) -> bytes | None:
    try:
        merged = rule(_value(base), _value(mine), _value(theirs))
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        error.add_note(f"in the merge rule of session[{shown(key)}]")
        raise
    except BaseException as error:
        # A CancelledError of something that it asked: it runs in anybody's task, who was not cancelled.
        name = type(error).__name__
        raise RuntimeError(f"the merge rule of session[{shown(key)}] raised {name}") from error
    if merged is None:
        return None
    encoded = codec.encode(merged, key)
    codec.check(merged, key, encoded)
    return encoded


def _value(encoded: bytes | None) -> Any:
    return None if encoded is None else codec.decode(encoded)
