"""What can go wrong with blobs on this host."""

from beiran.errors import BeiranError


class CacheFull(BeiranError):
    """There is no room for these bytes, also not by dropping what nobody needs.

    What was there is still there. Later there may be room again.
    """


class BlobMissing(BeiranError):
    """The cache does not have this blob, or not these bytes of it."""


class BlobRefused(BeiranError):
    """The bytes are not what their digest says, or the blob has another size than was said."""
