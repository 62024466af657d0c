"""Sessions in Memcached."""

from asgi_session.stores.memcached.store import MemcachedStore

__all__ = ["MemcachedStore"]
