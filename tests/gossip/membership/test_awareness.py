"""A node that receives nothing knows that it is deaf."""

from beiran.gossip.messages import (
    Alive,
    SyncBegin,
)
from tests.gossip.bench import CODEC, OWN, OWN_ADDRESS, Bench, at, requests


def test_a_node_that_hears_only_itself_is_deaf() -> None:
    bench = Bench(peers=3)
    joined = bench.did(bench.node.join([at(200)], now=bench.now))
    joined += bench.run(0.1)
    (begin,) = [r for r in requests(joined) if r.to == at(200)]
    bench.run(3.0)
    own = Alive(OWN, 5, 0, OWN_ADDRESS.packed_host, 8888, "own")
    request = CODEC.encode_stream(SyncBegin(own, bytes(8)))
    reply, effects = bench.node.receive_request(request, now=bench.now)
    assert reply is not None
    bench.did(effects)
    bench.did(bench.node.receive_reply(begin.token, reply, now=bench.now))
    assert bench.node.deaf
