"""One request's copy of a session."""
