"""`SQLStore`: sessions in a table of PostgreSQL, MariaDB, MySQL or SQLite, by SQLAlchemy 2.

* `store`: the verbs. `verbs`: what each does with a connection. `statements`: the SQL.
* `postgresql`: what only PostgreSQL can: `listening` for wake-ups, `loading` several records at once.
* `pool`: an event loop's connections. `errors`: what a server's errors mean.
* `target`: URLs, engines and options. `schema`: the table. `checking`: what `open` finds out.
"""

from asgi_session.stores._shared.extras import need

need("sqlalchemy", store="SQLStore", extra="postgresql", others=("mysql", "sqlite"))

from asgi_session.stores.sql.postgresql import PostgreSQLStore  # noqa: E402
from asgi_session.stores.sql.schema import sessions_table  # noqa: E402
from asgi_session.stores.sql.store import SQLStore  # noqa: E402

__all__ = ["PostgreSQLStore", "SQLStore", "sessions_table"]
