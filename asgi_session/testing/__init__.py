"""What tests of apps and of stores need."""

from asgi_session.testing.clock import ManualClock
from asgi_session.testing.faults import Call, FaultStore, Gate

__all__ = ["Call", "FaultStore", "Gate", "ManualClock"]
