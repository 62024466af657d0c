"""What tests of apps and of stores need."""

import sys

if "pytest" in sys.modules:  # failed assertions of the suite then show their values
    import pytest

    pytest.register_assert_rewrite("asgi_session.testing._suite")

from asgi_session.testing.clock import ManualClock
from asgi_session.testing.conformance import StoreConformance
from asgi_session.testing.faults import Call, FaultStore, Gate

__all__ = ["Call", "FaultStore", "Gate", "ManualClock", "StoreConformance"]
