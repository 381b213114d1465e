"""The client of OCI registries (origins): requests, tokens, credentials, proxies."""
