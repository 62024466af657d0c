"""What tests of apps and of stores need."""

import sys
from typing import TYPE_CHECKING, Any

if "pytest" in sys.modules:  # failed assertions of the suite then show their values
    import pytest

    pytest.register_assert_rewrite("asgi_session.testing._suite")

from asgi_session.testing.clock import ManualClock
from asgi_session.testing.conformance import StoreConformance
from asgi_session.testing.faults import Call, FaultStore, Gate

if TYPE_CHECKING:
    from asgi_session.testing.client import SessionClient


def __getattr__(name: str) -> Any:
    # Not imported above: Starlette's TestClient needs httpx, and tests of stores do not.
    if name == "SessionClient":
        from asgi_session.testing.client import SessionClient

        return SessionClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Call", "FaultStore", "Gate", "ManualClock", "SessionClient", "StoreConformance"]
