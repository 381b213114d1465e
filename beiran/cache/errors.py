"""Errors of the blob cache."""

from beiran.errors import BeiranError


class CacheFull(BeiranError):
    """There is no room for these bytes, even if every blob that is not in use were dropped.

    Nothing was dropped. Later there may be room again.
    """


class BlobMissing(BeiranError):
    """The cache lacks this blob, or these bytes of it."""


class BlobRefused(BeiranError):
    """The bytes do not match their digest, or the cache has the blob, or it has another size."""
