"""Without Memcached its tests are left out, other than in CI. No package index has the server."""

from __future__ import annotations

from tests.servers.memcached import MISSING

collect_ignore_glob = ["test_*.py"] if MISSING else []
