"""What can go wrong, by whose fault, and what to do about it.

``LocalError`` is ours or the operator's, ``RemoteProtocolError`` is a peer's: the first may
end the agent with one clear line, the second is counted and never changes our state.
"""


class BeiranError(Exception):
    """Anything beiran raises on purpose. The text is one line for a person."""


class LocalError(BeiranError):
    """Something on this host is wrong: a setting, a file, a port."""


class SettingsError(LocalError):
    """A setting cannot be used. The text names it, its source and what would be right."""


class DataError(LocalError):
    """A file of ours cannot be read, or holds what we never wrote. It is left as it is."""


class RemoteProtocolError(BeiranError):
    """A peer broke the protocol."""


class BadPacket(RemoteProtocolError):
    """A peer sent bytes we cannot read. Our state is unchanged."""


class EngineUnavailable(BeiranError):
    """The engine (Docker, the layout folder) does not answer. It may come back."""


class EngineRefused(BeiranError):
    """The engine answers, and will not do what it was asked to; the text is its reason."""


class ApiError(BeiranError):
    """A request that cannot be served, as the API says it.

    Attributes:
      status: the HTTP status, 400 to 599.
      code: a word in capitals for programs, as in the OCI distribution specification.
      message: one line for a person.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class NotFound(ApiError):
    """There is no such node, image or layer: HTTP 404."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(404, code, message)


class BadRequest(ApiError):
    """A parameter or a path cannot be read: HTTP 400."""

    def __init__(self, message: str, *, code: str = "BAD_REQUEST") -> None:
        super().__init__(400, code, message)


class AgentUnreachable(BeiranError):
    """No agent answers at the socket or the URL a client was given."""


class AgentForbidden(AgentUnreachable):
    """This user may not open the agent's socket. An agent may well be there."""
