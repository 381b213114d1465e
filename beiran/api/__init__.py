"""The models of the API, which the agent, the client library and the CLI share."""

from typing import Final

# Where the agent listens and clients connect, unless a setting says otherwise. FHS 3.0, 3.15: run.
SOCKET_PATH_DEFAULT: Final = "/run/beiran/beiran.sock"
