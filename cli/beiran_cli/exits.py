"""What the exit codes mean."""

from typing import Final

from beiran.errors import BeiranError

OK: Final = 0
FAILED: Final = 1
"""It could not be done: no such node or image, a port in use, an agent that answers nonsense."""
USAGE: Final = 2
"""The command line or a setting cannot be used."""
NO_AGENT: Final = 3
"""No agent answers at the socket or the URL."""
INTERRUPTED: Final = 130
"""Ctrl-C, as a shell counts it: 128 and SIGINT."""


class WrongUsage(BeiranError):
    """The command line or a variable cannot be used. One line; exit code 2."""


class Unfound(BeiranError):
    """What was asked for is not there, or is not one. Exit code 1, and may have more lines."""
