"""What ``--follow`` does: each thing as it is told, a line each, until Ctrl-C."""

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
    told_by: "Callable[[Client], AbstractAsyncContextManager[AsyncIterable[T]]]",
    line: Callable[[T], str],
) -> None:
    """Print what the agent tells.

    Args:
      told_by: which of the client's streams.
      line: one of them as a line; nothing is printed where it is empty.
    """
    import trio

    client, as_json = common.follow(), common.as_json

    async def tell() -> None:
        async with client, told_by(client) as stream:
            async for told in stream:
                if as_json:
                    print_json_line(told)
                elif text := line(told):
                    print_line(text)

    trio.run(tell)
