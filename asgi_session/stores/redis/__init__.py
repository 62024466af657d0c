"""Sessions on Redis, Valkey, ElastiCache and MemoryDB: `RedisStore`.

Rights that the store's user needs (``asgi_session`` being the prefix)::

    ACL SETUSER sessions on >password ~asgi_session:* resetchannels &asgi_session:wake:*
        +get +set +del +eval +evalsha +getrange +setrange +pexpireat +ping +publish +subscribe +info +time

`RedisStore.open` tries them out. Without ``+publish``, ``+subscribe`` and the channels, processes poll for
locks. Without ``+info`` nobody warns of a ``maxmemory-policy`` that evicts sessions, without ``+time``
nobody warns of clocks that differ. In addition: on a cluster ``+cluster|slots +asking``; with a database
other than 0 ``+select``; with a ``client_name`` ``+client|setname``; behind Sentinel ``+role``, without
which a demoted primary is noticed only by its refusal to write. ``+client|setinfo`` names the library in
CLIENT LIST. On a server without Lua, ``+delifeq`` takes the place of ``+eval +evalsha +getrange +setrange
+pexpireat``. A user of the sentinels needs ``+sentinel|get-master-addr-by-name``.

Every other user of the server needs ``resetchannels``, or it can hear and forge wake-ups: until Redis 7,
new users may use all channels.
"""

from asgi_session.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
