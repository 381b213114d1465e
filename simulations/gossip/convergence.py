"""Convergence: whether the hosts of a cluster agree with each other and with the truth."""

from collections.abc import Sequence

from beiran.ids import NodeId
from simulations.gossip.host import Host


def converged(hosts: Sequence[Host]) -> bool:
    """Whether each of ``hosts`` sees exactly ``hosts`` as online, and what each of them holds."""
    hashes = {host.node.members.state_hash for host in hosts}
    if len(hashes) > 1:  # quick, and nearly always enough
        return False
    ids = {host.id for host in hosts}
    versions = {host.id: host.node.possession.version(host.id) for host in hosts}
    return all(_sees(host, hosts, ids, versions) for host in hosts)


def _sees(host: Host, hosts: Sequence[Host], ids: set[NodeId], versions: dict[NodeId, int]) -> bool:
    members, possession = host.node.members, host.node.possession
    if members.online_count != len(ids):
        return False
    online = {member.node for member in members.all() if member.status.online}
    if online != ids or any(possession.version(n) != v for n, v in versions.items()):
        return False
    descriptions = host.node.descriptions
    return not descriptions.wanted_count or all(
        descriptions.get(image) is not None for other in hosts for image in other.engine
    )


def describe(now: float, hosts: Sequence[Host]) -> str:
    """Describe what each of ``hosts`` believes, one line each."""
    lines = [f"at {now:.3f}"]
    for host in hosts:
        node = host.node
        known = sorted(
            f"{m.name}:{m.status.name}/{m.incarnation}/v{node.possession.version(m.node)}"
            for m in node.members.all()
        )
        wanted = node.descriptions.wanted_count
        lines.append(f"{host.name} (wants {wanted}): {' '.join(known)}")
    return "\n".join(lines)
