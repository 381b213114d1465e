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
_Limit = Annotated[str | None, Parameter(metavar="LIMIT")]


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
    mirror_port: _Port = None,
    origin: Annotated[list[str] | None, Parameter(metavar="NAME=URL", negative=())] = None,
    docker_config: _Path = None,
    cache_bytes: Annotated[str | None, Parameter(metavar="SIZE")] = None,
    tag_ttl: Annotated[str | None, Parameter(metavar="SECONDS")] = None,
    offline_tags: Annotated[str | None, Parameter(metavar="allow|deny")] = None,
    upload_limit: _Limit = None,
    download_limit: _Limit = None,
    origin_limit: _Limit = None,
    allow_prefetch: Annotated[
        list[str] | None, Parameter(metavar="REPOSITORY", negative=())
    ] = None,
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
    mirror_port
        Loopback port at which the engine pulls through the agent; 0 for none (8880).
    origin
        Where a registry really is, docker.io=https://cache.example; can be repeated.
    docker_config
        Docker's config.json with the credentials for registries (that of the agent's user).
    cache_bytes
        How much the blob cache may take, 20GB (a tenth of the disk, at most 20 GB).
    tag_ttl
        Seconds for which what a tag means is believed without asking its registry (0).
    offline_tags
        Whether other nodes may tell what a tag means while its registry is away (allow).
    upload_limit
        What is sent to other nodes: 50MB a second, 8x at once, 50MB,8x (none).
    download_limit
        What is taken from other nodes (none).
    origin_limit
        What is taken from registries: bytes from all together, transfers from each (none).
    allow_prefetch
        Repositories that other nodes may have this one pull, with *, or all; can be repeated
        (none).
    log_level
        debug, info, warning or error (info).
    log_format
        text or json (text).
    """
    given = {option: value for option, value in locals().items() if value is not None}
    from beiran.settings.settings import load_settings

    settings = load_settings(given, os.environ)
    from beiran.agent.main import run_agent

    return run_agent(settings)


app = App(name="agent", help_epilogue=HELP_AFTER)
app.default(run)
