"""The blob cache on disk: whole blobs, partial blobs, verification, and eviction."""
