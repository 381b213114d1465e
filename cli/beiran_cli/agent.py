"""``beiran agent``, the same as ``beirand``: run this host's agent in the foreground."""

import os
from typing import Annotated

from cyclopts import App, Parameter

HELP_AFTER = (
    "Every option is also an environment variable (--data-dir is BEIRAN_DATA_DIR) and a key of "
    "beiran.toml in the configuration folder (data_dir). The command line wins over the "
    "environment, and the environment over the file. Repeatable options are comma-separated in the "
    "environment and arrays in the file."
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
        Unix socket at which the agent answers the other commands (/run/beiran/beiran.sock).
    cluster
        Name of the cluster; the agent ignores agents of other clusters (default).
    name
        This node's name in listings (the host's name).
    bind
        IP address to listen on (0.0.0.0).
    advertise
        IP address at which other nodes reach this one (that of the default route).
    port
        TCP port of HTTP and WebSocket, and UDP port of gossip (8888).
    beacon_port
        UDP port of the broadcasts by which agents of a LAN find each other (8887).
    join
        Address of an agent to join; repeatable.
    dns
        DNS name whose A, AAAA or SRV records lead to agents; repeatable.
    beacon
        Send and hear broadcasts (on).
    engine
        Engine to watch: docker:///PATH, tcp://HOST:PORT, ssh://HOST, context:NAME, oci:DIR or
        none. Without it: DOCKER_HOST, DOCKER_CONTEXT, then Docker's socket if it exists.
    mirror_port
        Loopback port of the mirror, at which the engine pulls; 0 for no mirror (8880).
    origin
        Other address of a registry, docker.io=https://cache.example; repeatable.
    docker_config
        Docker's config.json with credentials for registries (that of the agent's user).
    cache_bytes
        Largest size of the blob cache, such as 20GB (a tenth of the disk, at most 20 GB).
    tag_ttl
        Seconds for which a resolved tag is used without asking its registry again (0).
    offline_tags
        Whether other nodes may resolve a tag while its registry does not answer (allow).
    upload_limit
        Limit of what other nodes receive: 50MB a second, 8x at once, 50MB,8x (none).
    download_limit
        Limit of what this node receives from other nodes (none).
    origin_limit
        Limit of what this node takes from registries: bytes of all, transfers of each (none).
    allow_prefetch
        Repositories that other nodes may ask this one to pull, with *, or all; repeatable
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
