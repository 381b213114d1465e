"""Start an agent and see it to its end: what goes wrong becomes one line and an exit code."""

import logging
import sys

import trio

from beiran.agent.agent import serve_agent
from beiran.agent.log_format import set_up_logging
from beiran.errors import LocalError
from beiran.settings.settings import Settings


def run_agent(settings: Settings) -> int:
    """Run an agent in the foreground until it is told to stop.

    Returns: 0 when it was stopped by SIGTERM or SIGINT, 1 when something on this host stood in
    its way, which is then told in one line on standard error.
    """
    set_up_logging(settings)
    try:
        trio.run(serve_agent, settings)
    except BaseExceptionGroup as group:
        ours, others = group.split(LocalError)
        if others is not None:
            logging.getLogger(__name__).exception("the agent failed")
            return 1
        assert ours is not None
        return _fail(_first(ours))
    except LocalError as error:
        return _fail(error)
    return 0


def _fail(error: BaseException) -> int:
    print(f"beirand: {error}", file=sys.stderr)
    return 1


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
