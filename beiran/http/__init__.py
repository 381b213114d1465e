"""HTTP/1.1 over trio streams: the server, its bodies and upgrades, and one client connection."""
