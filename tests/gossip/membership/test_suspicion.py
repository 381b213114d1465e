"""How long a suspect may refute."""

from beiran.gossip.config import GossipConfig
from beiran.gossip.membership.suspicion import Suspicion
from beiran.ids import NodeId

MEMBER = NodeId(b"\0" * 16)


def test_a_suspicion_shrinks_with_confirmations_and_not_below_its_least() -> None:
    suspicion = Suspicion(
        node=MEMBER,
        generation=1,
        incarnation=0,
        started_at=100.0,
        minimum_s=2.0,
        maximum_s=12.0,
        confirmations=3,
        accusers=[NodeId(b"0" * 16)],
        refused=[],
    )
    deadlines = [suspicion.deadline]
    for number in range(1, 5):
        assert suspicion.accuse(NodeId(bytes([number]) * 16), refused=False)
        deadlines.append(suspicion.deadline)
    assert deadlines[0] == 112.0
    assert deadlines == sorted(deadlines, reverse=True)
    assert deadlines[3] == deadlines[4] == 102.0
    assert not suspicion.accuse(NodeId(b"0" * 16), refused=False)
    assert suspicion.accuse(NodeId(b"0" * 16), refused=True)


def test_the_least_suspicion_time_grows_with_the_logarithm_of_the_members() -> None:
    config = GossipConfig(suspicion_alpha=2.0, probe_interval_s=1.0)
    assert config.suspicion_min_s(1) == config.suspicion_min_s(10) == 2.0
    assert config.suspicion_min_s(1000) == 6.0
