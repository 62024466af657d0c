"""Reading what cluster nodes say about each other. No I/O."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from asgi_session.stores._shared.addresses import Address
from asgi_session.stores.redis.target import AddressRemap, remapped

SLOTS: Final = 16384


class Topology(NamedTuple):
    """Which primary serves which slots (first and last), and who else could be asked."""

    ranges: tuple[tuple[int, int, Address], ...]
    replicas: tuple[Address, ...]


def endpoint(host: bytes | str | None, port: int, asked: Address, remap: AddressRemap | None) -> Address:
    """Complete an announced address: no host, or an unknown one, means the node that was asked."""
    name = host.decode() if isinstance(host, bytes) else host
    address = (name if name and name != "?" else asked[0], port)
    return remapped(address, remap)


def read_slots(reply: Any, asked: Address, remap: AddressRemap | None) -> Topology | None:
    """Read the answer to CLUSTER SLOTS; None when it is an error or names no slot.

    A shape that it should not have raises; so may `remap`.
    """
    if not isinstance(reply, list) or not reply:
        return None
    ranges: list[tuple[int, int, Address]] = []
    replicas: list[Address] = []
    entries: list[Any] = reply
    for first, last, primary, *others in entries:
        if not 0 <= first <= last < SLOTS:
            raise ValueError(f"slots {first} to {last}")
        ranges.append((first, last, endpoint(primary[0], primary[1], asked, remap)))
        replicas += (endpoint(other[0], other[1], asked, remap) for other in others)
    return Topology(tuple(ranges), tuple(dict.fromkeys(replicas)))


def read_redirect(error: str, asked: Address, remap: AddressRemap | None) -> tuple[int, Address] | None:
    """Read slot and address from "MOVED 3999 127.0.0.1:6381", or "ASK ..."; raises what `remap` raises."""
    words = error.split()
    if len(words) < 3:
        return None
    host, _, port = words[2].rpartition(":")
    if not (words[1].isdigit() and port.isdigit()) or int(words[1]) >= SLOTS:
        return None
    return int(words[1]), endpoint(host.strip("[]"), int(port), asked, remap)
