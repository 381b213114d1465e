"""The words of images: manifests, references, media types. Pure data, no I/O."""
