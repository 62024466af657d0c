"""Sessions on Redis, Valkey, ElastiCache and MemoryDB: `RedisStore`.

Rights that the store's user needs (``asgi_session`` being the prefix)::

    ACL SETUSER sessions on >password ~asgi_session:* resetchannels &asgi_session:wake:*
        +get +set +del +eval +evalsha +getrange +setrange +pexpireat +ping +publish +subscribe

Without the last two and the channels locks are polled for instead of waited for. And besides: on a
cluster ``+cluster|slots +asking``; with a database other than 0 ``+select``; with a ``client_name``
``+client|setname``; behind Sentinel ``+role``, without which a demoted primary is noticed only by its
refusal to write; with ``+info`` the store can warn of a ``maxmemory-policy`` that evicts sessions.
``+client|setinfo`` names the library in CLIENT LIST. A user of the sentinels needs
``+sentinel|get-master-addr-by-name``.
"""

from asgi_session.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
