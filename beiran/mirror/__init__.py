"""The pull part of the OCI distribution API, which engines use as their registry mirror."""
