"""``docs/reference/protocol.md`` names every message, tag and field, of gossip and of the swarm."""

import re
from pathlib import Path

import pytest

from beiran.gossip import messages
from beiran.gossip.messages import Datagram, News, Stream
from beiran.oci.images import ImageDescription, LayerDescription
from beiran.swarm import messages as swarm_messages

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "protocol.md").read_text()
INNER = (
    messages.Held,
    messages.Entry,
    messages.SyncMember,
    messages.SyncDelta,
    messages.SyncHeld,
    messages.SyncWant,
    ImageDescription,
    LayerDescription,
    swarm_messages.PieceHash,
)
TAGGED = {*News.__args__, *Datagram.__args__, *Stream.__args__, *swarm_messages.Message.__args__}


@pytest.mark.parametrize("message", sorted(TAGGED, key=repr))
def test_a_message_is_in_a_table_with_its_tag_and_fields(message: type) -> None:
    rows = [line for line in TEXT.splitlines() if f"| `{message.__name__}`" in line]
    assert rows, f"{message.__name__} has no row"
    tag = message.__struct_config__.tag  # type: ignore[attr-defined]
    assert rows[0].startswith(f"| {tag} ")
    fields = re.findall(r"`([a-z_]+)`", rows[0].split("|")[3])
    assert fields == list(message.__struct_fields__)  # type: ignore[attr-defined]


@pytest.mark.parametrize("message", INNER)
def test_the_fields_of_what_is_inside_messages_are_named(message: type) -> None:
    for field in message.__struct_fields__:  # type: ignore[attr-defined]
        assert f"`{field}`" in TEXT


def test_no_message_is_documented_that_does_not_exist() -> None:
    documented = set(re.findall(r"^\| [0-9, ]+ \| `([A-Za-z]+)`", TEXT, re.MULTILINE))
    assert documented <= {m.__name__ for m in TAGGED}
