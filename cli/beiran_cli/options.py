"""The options that every command has: where the agent is, and what the answer looks like."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple, cast, get_args

from cyclopts import Group, Parameter

from beiran_cli.exits import WrongUsage

if TYPE_CHECKING:
    from beiran.client.blocking_client import BlockingClient
    from beiran.client.trio_client import Client

Output = Literal["table", "json"]
OUTPUTS: Final[tuple[str, ...]] = get_args(Output)
COMMON_GROUP: Final = Group("Common options", sort_key=100)


class Place(NamedTuple):
    """Where an agent is, as a client is told; neither is the default socket."""

    socket: str | None
    url: str | None


@Parameter(name="*", group=COMMON_GROUP)
@dataclass(frozen=True)
class Common:
    """What was given on the command line; the environment fills in what was not."""

    socket: Annotated[
        str | None,
        Parameter(
            metavar="PATH",
            help="Unix socket of the agent (BEIRAN_SOCKET, or /run/beiran/beiran.sock).",
        ),
    ] = None
    url: Annotated[
        str | None,
        Parameter(metavar="URL", help="Ask the agent at http://HOST:PORT instead (BEIRAN_URL)."),
    ] = None
    output: Annotated[
        Output | None,
        Parameter(help="table for people, json for programs (BEIRAN_OUTPUT, or table)."),
    ] = None

    @property
    def as_json(self) -> bool:
        """Whether the answer is wanted as JSON. Raises: WrongUsage."""
        return self._output() == "json"

    @property
    def place(self) -> "Place":
        """Where the agent is.

        A URL in the environment counts for more than a socket there, which the agent's own
        settings use as well. Raises: WrongUsage.
        """
        if self.socket and self.url:
            raise WrongUsage("give --socket or --url, not both")
        if self.socket or self.url:
            return Place(self.socket, self.url)
        url = os.environ.get("BEIRAN_URL") or None
        return Place(None if url else os.environ.get("BEIRAN_SOCKET") or None, url)

    def connect(self) -> "BlockingClient":
        """A client of the agent that is meant. Raises: WrongUsage."""
        from beiran.client.blocking_client import BlockingClient

        self._output()  # what is wrong with it is told before anybody is asked
        try:
            return BlockingClient(socket=self.place.socket, url=self.place.url)
        except ValueError as error:
            raise WrongUsage(str(error)) from None

    def follow(self) -> "Client":
        """A client on trio of the agent that is meant, which can follow. Raises: WrongUsage."""
        from beiran.client.trio_client import Client

        self._output()
        try:
            return Client(socket=self.place.socket, url=self.place.url)
        except ValueError as error:
            raise WrongUsage(str(error)) from None

    def _output(self) -> Output:
        output = self.output or os.environ.get("BEIRAN_OUTPUT") or "table"
        if output not in OUTPUTS:
            raise WrongUsage(f"BEIRAN_OUTPUT: {output!r} is none of {', '.join(OUTPUTS)}")
        return cast(Output, output)


DEFAULTS: Final = Common()
