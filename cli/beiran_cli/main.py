"""The entry points ``beiran`` and ``beirand``, and how errors become exit codes.

Python starts in 30 ms, cyclopts in 50 and the client in 30; trio, rich or docker would each take as
long again. So a command's module is imported when the command runs, and trio only where it follows.
"""

import errno
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from cyclopts import App, CycloptsError

import beiran
from beiran.errors import AgentForbidden, AgentUnreachable, BeiranError, SettingsError, first_of
from beiran_cli.exits import FAILED, INTERRUPTED, NO_AGENT, OK, USAGE, Unfound, WrongUsage

if TYPE_CHECKING:
    from collections.abc import Callable

COMMON_OPTIONS: Final = ("--socket", "--url", "--output")
HELP: Final = (
    "Docker hosts that find each other, know what each one holds, and share the bytes.\n\n"
    "Every command that asks the agent takes --socket PATH, --url URL and --output table|json, "
    "before or after it. BEIRAN_SOCKET, BEIRAN_URL and BEIRAN_OUTPUT set them in the environment."
)
EXIT_CODES: Final = (
    "Exit codes: 0 done, 1 not found, not permitted or failed, 2 wrong usage, 3 no agent answers."
)


def make_app() -> App:
    """Make the command tree of ``beiran``."""
    app = App(
        name="beiran",
        help=HELP,
        help_epilogue=EXIT_CODES,
        version=beiran.__version__,
        suppress_keyboard_interrupt=False,
    )
    commands = (
        (
            "info",
            "beiran_cli.info:app",
            "Show this host's agent: its identity, state, problems and counters.",
        ),
        ("node", "beiran_cli.nodes:app", "List and show nodes."),
        ("image", "beiran_cli.images:app", "List, show, pull and prefetch images."),
        ("layer", "beiran_cli.layers:app", "List layers and the nodes that hold them."),
        ("transfer", "beiran_cli.transfers:app", "List the blobs in transfer."),
        (
            "events",
            "beiran_cli.events:app",
            "Print recent events, or events as they occur.",
        ),
        (
            "agent",
            "beiran_cli.agent:app",
            "Run this host's agent in the foreground (the same as beirand).",
        ),
        (
            "plan",
            "beiran_cli.plan:app",
            "Estimate what a fleet of hosts will cost.",
        ),
        ("demo", "beiran_cli.demo:app", "Run three agents on this machine for a few seconds."),
    )
    for place, (name, where, help_) in enumerate(commands):
        app.command(where, name=name, help=help_, sort_key=place)
    return app


def make_agent_app() -> App:
    """Make ``beirand``: the command ``agent`` as a program of its own."""
    from beiran_cli.agent import HELP_AFTER, run

    app = App(
        name="beirand",
        help_epilogue=HELP_AFTER,
        version=beiran.__version__,
        suppress_keyboard_interrupt=False,
    )
    app.default(run)
    return app


def main() -> NoReturn:
    """Run ``beiran``, and exit with its code."""
    _exit(_run(make_app, common_options_last(sys.argv[1:]), program="beiran"))


def main_agent() -> NoReturn:
    """Run ``beirand``, and exit with its code."""
    _exit(_run(make_agent_app, sys.argv[1:], program="beirand"))


def common_options_last(arguments: Sequence[str]) -> list[str]:
    """Move the common options behind the command, where cyclopts looks for them.

    >>> common_options_last(["--output", "json", "node", "list", "--all"])
    ['node', 'list', '--all', '--output', 'json']
    """
    rest: list[str] = []
    common: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            return [*rest, *common, word, *words]
        if word in COMMON_OPTIONS:
            common += [word, *([value] if (value := next(words, None)) is not None else [])]
        elif word.startswith(tuple(option + "=" for option in COMMON_OPTIONS)):
            common.append(word)
        else:
            rest.append(word)
    return rest + common


def _run(make: "Callable[[], App]", arguments: Sequence[str], *, program: str) -> int:
    if sys.stdout is None:  # closed by the shell (>&-): no output is wanted
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process
    try:
        code = make()(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else OK
    except BaseExceptionGroup as group:  # from a nursery
        return _end(program, first_of(group))
    except (Exception, KeyboardInterrupt) as error:
        return _end(program, error)


def _end(program: str, error: BaseException) -> int:
    """Print an error as one line. Returns: the exit code."""
    match error:
        case KeyboardInterrupt():
            return INTERRUPTED
        case BrokenPipeError():
            # The reader has closed the pipe (| head): Python's last flush must not fail.
            _discard_output()
            return OK
        case OSError(errno=errno.ENOSPC):
            _discard_output()
            return _fail(program, f"cannot write the output: {error.strerror}", FAILED)
        case CycloptsError():
            command = " ".join([program, *(error.command_chain or ())])
            return _fail(program, f"{_one_line(error)} (see {command} --help)", USAGE)
        case SettingsError() | WrongUsage():
            return _fail(program, _one_line(error), USAGE)
        case AgentForbidden():
            return _fail(program, _one_line(error), FAILED)
        case AgentUnreachable():
            return _fail(program, _one_line(error), NO_AGENT)
        case Unfound():
            return _fail(program, str(error), FAILED)
        case BeiranError():
            return _fail(program, _one_line(error), FAILED)
        case _:
            raise error


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(program: str, message: str, code: int) -> int:
    print(f"{program}: {message}", file=sys.stderr)
    return code


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _exit(code: int) -> NoReturn:
    sys.exit(code)
