"""Values that a session can hold, as hypothesis strategies, and an equality that also compares types."""

from __future__ import annotations

import struct
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

Values: TypeAlias = st.SearchStrategy[Any]

ZONES = ("Europe/Berlin", "America/St_Johns", "UTC", "Asia/Kathmandu", "Etc/GMT+5")

zones: Values = st.one_of(
    st.just(UTC),
    st.integers(-86399, 86399).map(lambda seconds: timezone(timedelta(seconds=seconds))),
    st.sampled_from(ZONES).map(ZoneInfo),
)
moments: Values = st.builds(
    lambda moment, fold: moment.replace(fold=fold),
    st.datetimes() | st.datetimes(timezones=zones, allow_imaginary=True),
    st.sampled_from([0, 1]),
)
decimals: Values = st.one_of(
    st.decimals(),
    st.sampled_from(["NaN", "-NaN", "NaN123", "sNaN", "-sNaN7", "-0", "0E+5", "1.10", "Infinity"]).map(
        Decimal
    ),
)
scalars: Values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**80), 2**80),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, -(2**64), 2**4096]),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.uuids(),
    st.dates(),
    moments,
    decimals,
)
# A signaling NaN has no hash; the same instant in two zones is one element.
_elements: Values = st.recursive(
    scalars.filter(lambda value: not (type(value) is Decimal and value.is_snan())),
    lambda inner: st.frozensets(inner, max_size=4) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)
values: Values = st.recursive(
    scalars | st.sets(_elements, max_size=5) | st.frozensets(_elements, max_size=5),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(_elements, inner, max_size=4),
    ),
    max_leaves=12,
)


def shape(value: Any) -> Any:
    """Return something that is equal for two values only if they are the same in type and content."""
    kind = type(value)
    if kind in (list, tuple):
        return kind, [shape(element) for element in value]
    if kind in (set, frozenset):
        return kind, sorted((shape(element) for element in value), key=repr)
    if kind is dict:
        return kind, [(shape(key), shape(element)) for key, element in value.items()]
    if kind is float:
        return kind, "nan" if value != value else struct.pack(">d", value)
    if kind is Decimal:
        return kind, str(value.as_tuple())
    if kind is datetime:
        zone = value.tzinfo
        name = None if zone is None else (type(zone), getattr(zone, "key", value.utcoffset()))
        return kind, value.replace(tzinfo=None, fold=0).isoformat(), value.fold, name
    assert kind in (type(None), bool, int, str, bytes, UUID, date), kind
    return kind, value
