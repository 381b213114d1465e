"""Options that several commands share: where the agent is, how to print, whose rows to list."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple, TypedDict, cast, get_args

from cyclopts import Group, Parameter

from beiran.api.models import Node
from beiran_cli.exits import WrongUsage
from beiran_cli.names import find_node

if TYPE_CHECKING:
    from beiran.client.blocking_client import BlockingClient
    from beiran.client.trio_client import Client

Output = Literal["table", "json"]
OUTPUTS: Final[tuple[str, ...]] = get_args(Output)
COMMON_GROUP: Final = Group("Common options", sort_key=100)


class _Scope(TypedDict):
    all: bool
    node: str | None


class Place(NamedTuple):
    """An agent's socket or URL. Both None is the default socket."""

    socket: str | None
    url: str | None


@Parameter(name="*", group=COMMON_GROUP)
@dataclass(frozen=True)
class Common:
    """The common options of a command line; the environment supplies absent ones."""

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
        """Whether to print JSON. Raises: WrongUsage."""
        return self._output() == "json"

    @property
    def place(self) -> "Place":
        """The agent's socket or URL.

        BEIRAN_URL wins over BEIRAN_SOCKET, since the agent's own settings use the latter too.
        Raises: WrongUsage.
        """
        if self.socket and self.url:
            raise WrongUsage("give --socket or --url, not both")
        if self.socket or self.url:
            return Place(self.socket, self.url)
        url = os.environ.get("BEIRAN_URL") or None
        return Place(None if url else os.environ.get("BEIRAN_SOCKET") or None, url)

    def connect(self) -> "BlockingClient":
        """Make a blocking client. Raises: WrongUsage."""
        from beiran.client.blocking_client import BlockingClient

        self._output()  # refuses a bad --output before the agent is asked
        try:
            return BlockingClient(socket=self.place.socket, url=self.place.url)
        except ValueError as error:
            raise WrongUsage(str(error)) from None

    def follow(self) -> "Client":
        """Make a trio client, which can follow streams. Raises: WrongUsage."""
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


@Parameter(name="*")
@dataclass(frozen=True)
class Scope:
    """Whose rows a listing shows: this host's, all nodes', or one node's."""

    all: Annotated[
        bool, Parameter(negative=(), show_default=False, help="List the rows of all nodes.")
    ] = False
    node: Annotated[
        str | None,
        Parameter(
            metavar="NODE", help="List the rows of a node (a UUID, its beginning, or a name)."
        ),
    ] = None

    def read(self, client: "BlockingClient", *, names: bool) -> tuple[list[Node], "_Scope"]:
        """Ask for the nodes that the listing needs.

        Args:
          names: whether the listing prints the names of nodes.

        Returns: the known nodes, if asked for, and the arguments of the client's listing methods.
        Raises: WrongUsage; Unfound when no node matches ``--node``, or several do.
        """
        known = client.get_known_nodes() if names or self.node is not None else []
        uuid = None if self.node is None else find_node(self.node, known).uuid
        return known, {"all": self.all, "node": uuid}

    def check(self) -> None:
        """Raises: WrongUsage when both options are given."""
        if self.all and self.node is not None:
            raise WrongUsage("give --all or --node, not both")


DEFAULTS: Final = Common()
OWN_HOST: Final = Scope()
