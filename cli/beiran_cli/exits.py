"""The exit codes, and the errors of the command line itself."""

from typing import Final

from beiran.errors import BeiranError

OK: Final = 0
FAILED: Final = 1
"""The command failed: no such node or image, no permission, a port in use, a broken answer."""
USAGE: Final = 2
"""The command line or a setting cannot be used."""
NO_AGENT: Final = 3
"""No agent answers at the socket or the URL."""
INTERRUPTED: Final = 130
"""Ctrl-C, as a shell counts it: 128 and SIGINT."""


class WrongUsage(BeiranError):
    """The command line or an environment variable cannot be used. One line; exit code 2."""


class Unfound(BeiranError):
    """No node or image matches, or several do. Several lines at most; exit code 1."""
