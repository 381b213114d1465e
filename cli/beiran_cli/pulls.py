"""``beiran image pull`` and ``beiran image prefetch``."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from beiran.api.models import PullDone, PullProgress
from beiran.errors import AgentUnreachable
from beiran_cli.exits import FAILED, OK, WrongUsage
from beiran_cli.names import find_node
from beiran_cli.options import DEFAULTS, Common
from beiran_cli.table import print_json, print_json_line, print_line, print_table

if TYPE_CHECKING:
    from beiran.client.trio_client import Client

_Platform = Annotated[str | None, Parameter(metavar="PLATFORM")]


def pull_image(
    reference: str,
    /,
    *,
    from_: Annotated[str | None, Parameter(name="--from", metavar="NODE")] = None,
    platform: _Platform = None,
    common: Common = DEFAULTS,
) -> None:
    """Pull an image into this host's engine, from other nodes where they hold it.

    Parameters
    ----------
    reference
        The image's name, in any registry: busybox, quay.io/foo/bar:1.
    from_
        Take the image that this node holds under that name (a UUID, its beginning, or a name).
    platform
        For example linux/arm64; this host's own by default.
    """
    import trio

    node = None
    if from_ is not None:
        with common.connect() as client:
            node = find_node(from_, client.get_known_nodes()).uuid
    trio.run(_pull, common.follow(), common.as_json, reference, node, platform)


async def _pull(
    client: "Client", as_json: bool, reference: str, node: str | None, platform: str | None
) -> None:
    from beiran_cli.progress import done_line, open_progress

    done: PullDone | None = None
    progress = None if as_json else open_progress()
    try:
        async with client, client.follow_pull(reference, node=node, platform=platform) as rows:
            async for row in rows:
                if progress is None:
                    print_json_line(row)
                elif isinstance(row, PullProgress):
                    progress.show(row)
                if isinstance(row, PullDone):
                    done = row
    finally:
        if progress is not None:
            progress.close()
    if done is None:
        raise AgentUnreachable("the agent closed the connection before the pull had ended")
    if not as_json:
        print_line(done_line(done))


def prefetch_image(
    reference: str,
    /,
    *,
    to: Annotated[list[str] | None, Parameter(metavar="NODE", negative=())] = None,
    platform: _Platform = None,
    common: Common = DEFAULTS,
) -> int:
    """Ask other nodes to pull an image into their engines, before they need it.

    Parameters
    ----------
    reference
        The image's name, in any registry.
    to
        A node (a UUID, the beginning of one, or a name), or all; can be repeated.
    platform
        For example linux/arm64; each node's own by default.
    """
    if not to:
        raise WrongUsage("name the nodes: --to NODE, or --to all")
    with common.connect() as client:
        if "all" in to:
            answers = client.prefetch(reference, nodes="all", platform=platform)
        else:
            known = client.get_known_nodes()
            uuids = [find_node(wanted, known).uuid for wanted in to]
            answers = client.prefetch(reference, nodes=uuids, platform=platform)
    if common.as_json:
        print_json(answers)
    else:
        rows = [(answer.name, answer.state, answer.message) for answer in answers]
        print_table(("NODE", "STATE", "WHY"), rows)
    failed = any(answer.state in ("refused", "unreachable") for answer in answers)
    return FAILED if failed else OK
