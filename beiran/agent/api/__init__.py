"""The agent's HTTP and WebSocket API: routes, listings, streams, and the OpenAPI document."""
