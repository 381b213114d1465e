"""One core whose peers a test plays by hand."""

from random import Random

from beiran.gossip.codec import Codec
from beiran.gossip.config import GossipConfig
from beiran.gossip.effects import Effect, SendDatagram, SendRequest
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.messages import (
    Ack,
    Alive,
    Gossip,
    News,
    Ping,
    PingReq,
    Want,
)
from beiran.gossip.node import GossipNode
from beiran.gossip.tables import Tables
from beiran.ids import NodeId

CODEC = Codec("default")
OWN = NodeId(b"O" * 16)
OWN_ADDRESS = Address("10.1.0.1", 8888)
IPV6 = Address("fd00:1111:2222:3333:4444:5555:6666:7777", 8888)
ANOTHER_HASH = 12345


def peer(number: int) -> NodeId:
    return NodeId(bytes([number]) * 16)


def at(number: int) -> Address:
    return Address(f"10.1.0.{number}", 8888)


class Bench:
    """One core, and its peers played by hand."""

    def __init__(self, *, peers: int = 0, now: float = 1000.0, **config: object) -> None:
        self.now = now
        self.effects: list[Effect] = []
        own = Member(OWN, "own", OWN_ADDRESS, 5, 0, Status.ALIVE)
        self.node = GossipNode(
            own,
            Tables.restored(own, 100),
            codec=CODEC,
            config=GossipConfig(**config),  # type: ignore[arg-type]
            random=Random(1),
            now=self.now,
        )
        self.did(self.node.start(now=self.now, beacons=False))
        for number in range(1, peers + 1):
            self.meet(number)

    def did(self, effects: list[Effect]) -> list[Effect]:
        self.effects += effects
        return effects

    def meet(self, number: int, address: Address | None = None) -> None:
        self.receive_news(number, self.alive(number, address=address))

    def alive(self, number: int, *, address: Address | None = None) -> Alive:
        where = address or at(number)
        return Alive(peer(number), 5, 0, where.packed_host, where.port, f"h{number}")

    def receive_news(self, by: int, *news: News) -> list[Effect]:
        items = tuple(CODEC.encode_news(item) for item in news)
        return self.receive(by, Gossip(peer(by), items))

    def receive(self, by: int, message: Gossip | Ping | Ack | Want | PingReq) -> list[Effect]:
        data = CODEC.encode_datagram(message)
        return self.did(self.node.receive_datagram(data, at(by), now=self.now))

    def run(self, seconds: float) -> list[Effect]:
        found: list[Effect] = []
        end = self.now + seconds
        while (deadline := self.node.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            found += self.did(self.node.advance(now=self.now))
        self.now = end
        return found

    def status(self, number: int) -> Status | None:
        member = self.node.members.get(peer(number))
        return member.status if member else None


class Listener(Bench):
    """A bench whose peers answer every ping at once, except those that are silent."""

    def __init__(self, *, peers: int, **config: float) -> None:
        super().__init__(peers=peers, **config)
        self.peers = range(1, peers + 1)

    def said(self, effects: list[Effect], kind: type) -> list[tuple[int, object]]:
        return [
            (number, message)
            for number in self.peers
            for message in sent(effects, to=at(number))
            if isinstance(message, kind)
        ]

    def live(self, seconds: float, silent: tuple[int, ...] = ()) -> list[Effect]:
        """Let time pass in small steps, and answer pings."""
        found: list[Effect] = []
        end = self.now + seconds
        while self.now < end:
            self.now += 0.01
            effects = self.did(self.node.advance(now=self.now))
            found += effects
            for number, ping in self.said(effects, Ping):
                assert isinstance(ping, Ping)
                if number not in silent:
                    found += self.receive(
                        number, Ack(ping.probe, peer(number), self.node.members.state_hash)
                    )
        return found


def requests(effects: list[Effect]) -> list[SendRequest]:
    return [effect for effect in effects if isinstance(effect, SendRequest)]


def sent(effects: list[Effect], *, to: Address) -> list[object]:
    return [
        CODEC.decode_datagram_untrusted(effect.data)
        for effect in effects
        if isinstance(effect, SendDatagram) and effect.to == to
    ]


def gossiped(bench: Listener, effects: list[Effect]) -> list[tuple[int, Gossip]]:
    return [(n, m) for n, m in bench.said(effects, Gossip) if isinstance(m, Gossip)]


def news_of(message: object) -> list[object]:
    assert isinstance(message, Ping | Ack | Gossip)
    return [item for item, _ in CODEC.decode_news_untrusted(message.news)]
