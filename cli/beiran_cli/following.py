"""Print a stream of the agent, an item a line, until Ctrl-C (``events``, ``transfer list``)."""

from collections.abc import AsyncIterable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, TypeVar

from beiran_cli.options import Common
from beiran_cli.table import print_json_line, print_line

if TYPE_CHECKING:
    from beiran.client.trio_client import Client

T = TypeVar("T")


def print_each(
    common: Common,
    follow: "Callable[[Client], AbstractAsyncContextManager[AsyncIterable[T]]]",
    line: Callable[[T], str],
) -> None:
    """Print each item of a stream.

    Args:
      follow: opens one of the client's streams.
      line: an item as text; an empty text is not printed.
    """
    import trio

    client, as_json = common.follow(), common.as_json

    async def print_all() -> None:
        async with client, follow(client) as stream:
            async for item in stream:
                if as_json:
                    print_json_line(item)
                elif text := line(item):
                    print_line(text)

    trio.run(print_all)
