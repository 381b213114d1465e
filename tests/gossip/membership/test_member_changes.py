"""The consequences of a newer fact, and of forgetting a member."""

from random import Random

from beiran.gossip.config import GossipConfig
from beiran.gossip.membership.member import Member, Status
from beiran.gossip.node import GossipNode
from beiran.gossip.tables import Remembered, Tables
from simulations.gossip.images import holding
from tests.gossip.bench import (
    CODEC,
    OWN,
    OWN_ADDRESS,
    at,
    peer,
)


def test_nothing_is_left_of_a_remembered_member_that_is_forgotten() -> None:
    old = Member(peer(1), "h1", at(1), 4, 0, Status.DOWN)
    own = Member(OWN, "own", OWN_ADDRESS, 5, 0, Status.ALIVE)
    node = GossipNode(
        own,
        Tables.restored(own, 100, remembered=[Remembered(old, 50, (holding("a"),))]),
        codec=CODEC,
        config=GossipConfig(forget_s=10.0),
        random=Random(1),
        now=1.0,
    )
    node.start(now=1.0)
    now = 1.0
    while now < 12.0:
        now = node.next_deadline() or 12.0
        node.advance(now=now)
    assert node.members.version(peer(1)) == node.possession.version(peer(1)) == 0
