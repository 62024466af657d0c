"""What is shared of a server as a place to send commands to, for connections that speak RESP."""

from __future__ import annotations

from typing import TypeAlias

from asgi_session.stores._shared import node
from asgi_session.stores.redis.connection import Connection

Node: TypeAlias = node.Node[Connection]
Dial: TypeAlias = node.Dial[Connection]
