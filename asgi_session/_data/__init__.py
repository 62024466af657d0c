"""Values, without any I/O: what a session, its record, token and lock are, and what becomes of them."""
