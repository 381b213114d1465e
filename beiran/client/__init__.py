"""The client library: `Client` for trio and `BlockingClient` for plain sockets."""
