"""`MovingStore`: from one store to another, without a logout."""

from asgi_session.stores.moving.store import MovingStore

__all__ = ["MovingStore"]
