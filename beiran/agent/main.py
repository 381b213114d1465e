"""Run an agent as a program: an error of this host becomes one line and an exit code."""

import logging
import sys

import trio

from beiran.agent.agent import serve_agent
from beiran.agent.log_format import set_up_logging
from beiran.errors import LocalError, first_of
from beiran.settings.settings import Settings


def run_agent(settings: Settings) -> int:
    """Run an agent in the foreground until SIGTERM or SIGINT.

    Returns: the exit code: 0 after a signal; 1 after an error, which is one line on standard error
    if it is a ``LocalError``.
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
        return _fail(first_of(ours))
    except LocalError as error:
        return _fail(error)
    return 0


def _fail(error: BaseException) -> int:
    print(f"beirand: {error}", file=sys.stderr)
    return 1
