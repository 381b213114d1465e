"""``beiran agent``, the same as ``beirand``: runs this host's agent in the foreground."""

import os
from typing import Annotated

from cyclopts import App, Parameter

HELP_AFTER = (
    "Every option is also a variable in the environment (--data-dir is BEIRAN_DATA_DIR) and a key "
    "of beiran.toml in the configuration folder (data_dir). The command line wins over the "
    "environment, and the environment over the file. Options that can be repeated are "
    "comma-separated in the environment and arrays in the file."
)

_Dir = Annotated[str | None, Parameter(metavar="DIR")]
_Path = Annotated[str | None, Parameter(metavar="PATH")]
_Name = Annotated[str | None, Parameter(metavar="NAME")]
_Ip = Annotated[str | None, Parameter(metavar="IP")]
_Port = Annotated[str | None, Parameter(metavar="PORT")]


def run(
    *,
    config_dir: _Dir = None,
    data_dir: _Dir = None,
    socket: _Path = None,
    cluster: _Name = None,
    name: _Name = None,
    bind: _Ip = None,
    advertise: _Ip = None,
    port: _Port = None,
    beacon_port: _Port = None,
    join: Annotated[list[str] | None, Parameter(metavar="IP[:PORT]", negative=())] = None,
    dns: Annotated[list[str] | None, Parameter(metavar="NAME", negative=())] = None,
    beacon: bool | None = None,
    engine: Annotated[str | None, Parameter(metavar="ENGINE")] = None,
    log_level: Annotated[str | None, Parameter(metavar="LEVEL")] = None,
    log_format: Annotated[str | None, Parameter(metavar="FORMAT")] = None,
) -> int:
    """Run the agent of this host in the foreground, until SIGTERM or Ctrl-C.

    Parameters
    ----------
    config_dir
        Folder of beiran.toml and node.uuid (/etc/beiran).
    data_dir
        Folder of the database (/var/lib/beiran).
    socket
        Unix socket that the other commands talk to (/run/beiran/beiran.sock).
    cluster
        Agents of other clusters are ignored (default).
    name
        What listings call this node (the host's name).
    bind
        IP address to listen on (0.0.0.0).
    advertise
        IP address that the other nodes are told (found out).
    port
        HTTP and WebSocket on TCP, gossip on UDP (8888).
    beacon_port
        UDP port of the broadcasts by which agents on one LAN find each other (8887).
    join
        An agent to look for, by address; can be repeated.
    dns
        A name whose A, AAAA or SRV records are agents to look for; can be repeated.
    beacon
        Find agents by broadcast and be found (on).
    engine
        Whose images: docker:///PATH, oci:DIR or none (Docker's socket if it is there).
    log_level
        debug, info, warning or error (info).
    log_format
        text or json (text).
    """
    given = {option: value for option, value in locals().items() if value is not None}
    from beiran.settings import load_settings

    settings = load_settings(given, os.environ)
    from beiran.agent.main import run_agent

    return run_agent(settings)


app = App(name="agent", help_epilogue=HELP_AFTER)
app.default(run)
