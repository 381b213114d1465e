"""A folder in OCI image layout as an engine: index, blobs, and writes."""
