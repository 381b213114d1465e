"""The errors of beiran, by whose fault they are.

``LocalError`` is the fault of this host or its operator, and may end the agent with one line.
``RemoteProtocolError`` is the fault of a peer: the agent counts it, and its state does not change.
"""


class BeiranError(Exception):
    """An error that beiran raises on purpose. Its text is one line for the operator."""


class LocalError(BeiranError):
    """A setting, a file or a port of this host cannot be used."""


class SettingsError(LocalError):
    """A setting cannot be used. The text names it, its source and a valid form."""


class DataError(LocalError):
    """A file of the agent cannot be used, or has foreign contents. It stays as it is."""


class RemoteProtocolError(BeiranError):
    """A peer broke the protocol."""


class BadPacket(RemoteProtocolError):
    """A peer sent bytes that cannot be read. The state is unchanged."""


class EngineUnavailable(BeiranError):
    """The engine (Docker, the layout folder) does not answer. It may come back."""


class EngineRefused(BeiranError):
    """The engine answers, and refuses a request. The text is its reason."""


class ApiError(BeiranError):
    """A request that cannot be served.

    Attributes:
      status: the HTTP status, 400 to 599.
      code: a word in capitals for programs, as in the OCI distribution specification.
      message: one line for the operator.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class NotFound(ApiError):
    """No such node, image or layer is known: HTTP 404."""

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


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error of a nursery that ends the program: a Ctrl-C before any other."""
    interrupts, _ = group.split(KeyboardInterrupt)
    error: BaseException = interrupts or group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
