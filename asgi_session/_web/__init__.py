"""Sessions over HTTP and WebSocket."""
