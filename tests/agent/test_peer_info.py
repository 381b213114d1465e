"""``/info`` of the members: asked spread out over time."""

from beiran.agent.peer_info import delay_share
from beiran.ids import NodeId

MEMBER = NodeId(b"\x55" * 16)
OTHERS = [NodeId(bytes([place]) + bytes(15)) for place in range(256)]


def test_a_newcomer_is_not_asked_by_all_nodes_in_one_instant() -> None:
    shares = sorted(delay_share(own, MEMBER) for own in OTHERS)
    assert shares == [place / 256 for place in range(1, 257)]


def test_a_newcomer_does_not_ask_all_nodes_in_one_instant() -> None:
    shares = sorted(delay_share(MEMBER, member) for member in OTHERS)
    assert shares == [place / 256 for place in range(1, 257)]
