"""The parts of the conformance suite; `asgi_session.testing.conformance` puts them together."""
