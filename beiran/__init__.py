"""Docker hosts that find each other, know what each one holds, and share the bytes."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from beiran.client.blocking_client import BlockingClient as BlockingClient
    from beiran.client.trio_client import Client as Client

__all__ = ["BlockingClient", "Client"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # Client brings trio and trio-websocket with it, which most of the CLI does without (60 ms).
    if name == "Client":
        from beiran.client.trio_client import Client

        return Client
    if name == "BlockingClient":
        from beiran.client.blocking_client import BlockingClient

        return BlockingClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
