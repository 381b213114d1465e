"""The directory of a blob in flight, and the leases by which the origin sends a byte once."""
