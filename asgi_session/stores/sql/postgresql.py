"""`PostgreSQLStore`: what only PostgreSQL can."""

from __future__ import annotations

from asgi_session.stores.sql.store import SQLStore


class PostgreSQLStore(SQLStore, kind="postgresql"):
    """An `SQLStore` on PostgreSQL: make it as one."""
