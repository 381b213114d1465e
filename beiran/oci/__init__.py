"""The data types of container images: manifests, references, media types. No I/O."""
