"""The codecs of simulated agents: an older release, and none at all."""

from beiran.gossip.messages import Delta, Down, Suspect
from beiran.ids import Digest, NodeId
from simulations.gossip.codecs import OldCodec
from simulations.gossip.host import CLUSTER
from simulations.gossip.world import World


def test_a_cluster_converges_without_the_codec() -> None:
    world = World(13, carried=True)
    hosts = world.cluster(8)
    world.hold(hosts[2], *(f"image-{i}" for i in range(200)))
    world.kill(hosts[3])
    world.run_until(world.converged, within_s=30.0)


class TestOldCodec:
    node = NodeId(bytes(16))
    image = Digest(bytes(32))

    def test_it_sends_fewer_fields(self) -> None:
        old, new = OldCodec(CLUSTER), World().codec()
        suspect = Suspect(self.node, 3, 2, self.node, True)
        item = old.encode_news(suspect)
        assert len(item) == len(new.encode_news(suspect)) - 1
        ((read, _),) = new.decode_news_untrusted([item])
        assert read == Suspect(self.node, 3, 2, self.node, False)

    def test_it_ignores_later_fields(self) -> None:
        old, new = OldCodec(CLUSTER), World().codec()
        down = new.encode_news(Down(self.node, 3, 2, self.node, True))
        ((read, item),) = old.decode_news_untrusted([down])
        assert read == Down(self.node, 3, 2, self.node, False)
        assert item == down

    def test_unchanged_messages_have_the_same_bytes(self) -> None:
        old, new = OldCodec(CLUSTER), World().codec()
        delta = Delta(self.node, 1, 2, (), (self.image,))
        assert old.encode_news(delta) == new.encode_news(delta)
