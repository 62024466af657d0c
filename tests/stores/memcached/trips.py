"""How many round trips each verb takes: when the process knows the version, and when it does not.

`test_servers.py` counts them through a proxy; the documentation's table is held against them.
"""

from __future__ import annotations

TRIPS = {
    "load": (1, 1),
    "create": (1, 1),
    "save": (1, 2),
    "save, which conflicts": (2, 1),
    "save, of a session that has ended": (2, 1),
    "touch": (1, 2),
    "delete of one version": (1, 2),
    "delete, whichever version it is": (2, 2),
}
