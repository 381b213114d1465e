"""The store writer loses no effect, also while the disk is full."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from beiran.agent.event_bus import EventBus
from beiran.agent.store_writer import StoreWriter
from beiran.gossip.effects import MemberChanged
from beiran.gossip.membership.member import Address, Member, Status
from beiran.ids import NodeId, new_node_id, node_id_text
from beiran.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "beiran.db"), node=new_node_id(), cluster="default")


@pytest.fixture
async def writer(store: Store) -> AsyncIterator[StoreWriter]:
    writer = StoreWriter(store, EventBus())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.serve)
        yield writer
        nursery.cancel_scope.cancel()
    store.close()


def newcomers(count: int) -> list[NodeId]:
    return [new_node_id() for _ in range(count)]


def came(node: NodeId) -> MemberChanged:
    return MemberChanged(Member(node, "n" * 200, Address("10.0.0.1", 1), 1, 0, Status.ALIVE), None)


async def test_a_full_disk_does_not_end_the_agent_and_nothing_is_lost(
    store: Store, writer: StoreWriter
) -> None:
    (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
    store._writer.execute(f"PRAGMA max_page_count = {pages}").fetchone()
    nodes = newcomers(400)
    writer.on_effects([came(node) for node in nodes[:200]])
    with trio.fail_after(10):
        while writer.problem is None:  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert "full" in writer.problem
    writer.on_effects([came(node) for node in nodes[200:]])
    store._writer.execute("PRAGMA max_page_count = 100000").fetchone()
    with trio.fail_after(10):
        await writer.flushed()
    assert writer.problem is None
    with store.reading() as queries:
        known = {node.uuid for node in queries.nodes()}
    assert {node_id_text(node) for node in nodes} <= known
