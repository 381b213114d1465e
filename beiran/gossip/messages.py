"""The messages of gossip, and nothing else. ``docs/reference/protocol.md`` has each.

To add a message: a class with a free tag in one of the unions ``Datagram``, ``Stream`` or ``News``,
its case in ``GossipNode`` (mypy names the place), and its row in ``protocol.md`` (a test compares).
``swarm/messages.py`` has the messages of the swarm.

All are msgpack arrays with the tag first. New fields go last and have a default, so that older
agents skip them and newer agents do without; a message is never changed otherwise. A message that
exists is well formed: ``Meta`` bounds each field, ``__post_init__`` checks what ``Meta`` cannot
say. So the rest of the core never meets a value that a peer made up against the rules.

News travels inside other messages as a ``NewsItem``, untyped: a node passes on the fields that it
does not know, and skips news of a kind that it does not know.
"""

from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta, Struct

from beiran.gossip.membership.member import Address, Member
from beiran.ids import DIGEST_BYTES, WireDigest, WireNodeId
from beiran.oci.images import ImageDescription, RepoDigest

Count = Annotated[int, Meta(ge=0, le=2**48)]
"""Generations, incarnations, versions: room for 9,000 years of milliseconds."""
Probe = Annotated[int, Meta(ge=0, lt=2**32)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Host = Annotated[bytes, Meta(min_length=4, max_length=16)]
"""An IPv4 (4 bytes) or IPv6 (16 bytes) address; no length between them."""
Name = Annotated[str, Meta(max_length=255)]
StateHash = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""63 bits: msgspec bounds integers within int64."""
TAG_CHARACTERS_MAX: Final = 512  # as ``oci.familiar_names.NAME_CHARACTERS_MAX``
NAMES_MAX: Final = 1024
"""Tags, and repository digests, of one image: an owner announces no more than these."""
HASH_BYTES: Final = 8  # of one bucket of a version vector
Tag = Annotated[str, Meta(max_length=TAG_CHARACTERS_MAX)]
Tags = Annotated[tuple[Tag, ...], Meta(max_length=NAMES_MAX)]
RepoDigests = Annotated[tuple[RepoDigest, ...], Meta(max_length=NAMES_MAX)]
NewsItem = tuple[Any, ...]
"""A piece of news as msgpack has it: its tag and its fields, those of later releases too."""


# --- news: facts that are passed on -------------------------------------------------------------


class Alive(Struct, frozen=True, array_like=True, tag=1):
    """A member is alive, at this address. Only the member itself makes one."""

    node: WireNodeId
    generation: Count
    incarnation: Count
    host: Host
    port: Port
    name: Name

    def __post_init__(self) -> None:
        _check_host(self.host)

    @property
    def address(self) -> Address:
        """Where the member is reached."""
        return Address.unpacked(self.host, self.port)

    @classmethod
    def of(cls, member: Member) -> "Alive":
        """The message in which ``member`` announces itself."""
        host, port = member.address.packed_host, member.address.port
        return cls(member.node, member.generation, member.incarnation, host, port, member.name)


class Suspect(Struct, frozen=True, array_like=True, tag=2):
    """``by`` could not reach a member. SWIM §4.2; ``refused``: its host refused a connection."""

    node: WireNodeId
    generation: Count
    incarnation: Count
    by: WireNodeId
    refused: bool = False


class Down(Struct, frozen=True, array_like=True, tag=3):
    """A suspicion was not refuted in time, or several members' connections were refused."""

    node: WireNodeId
    generation: Count
    incarnation: Count
    by: WireNodeId
    refused: bool = False


class Left(Struct, frozen=True, array_like=True, tag=4):
    """A member said goodbye. Only the member itself makes one."""

    node: WireNodeId
    generation: Count
    incarnation: Count


class Held(Struct, frozen=True, array_like=True):
    """In a ``Delta``: an image is held, under these names."""

    image: WireDigest
    tags: Tags = ()
    digests: RepoDigests = ()


class Delta(Struct, frozen=True, array_like=True, tag=5):
    """What changed in an owner's holdings between two of its versions.

    It can be applied on any version from ``since`` to below ``version``; with ``since`` 0 on any:
    it is then everything the owner holds.
    """

    owner: WireNodeId
    since: Count
    version: Count
    held: tuple[Held, ...] = ()
    released: tuple[WireDigest, ...] = ()


class Ahead(Struct, frozen=True, array_like=True, tag=6):
    """An owner's holdings have this version, and the delta is too large for a datagram."""

    owner: WireNodeId
    version: Count


News = Alive | Suspect | Down | Left | Delta | Ahead
MemberNews = Alive | Suspect | Down | Left

# --- datagrams ----------------------------------------------------------------------------------


class Ping(Struct, frozen=True, array_like=True, tag=10):
    """Are you there? Answered by an Ack with the same ``probe``. SWIM §3.1."""

    probe: Probe
    sender: WireNodeId
    state_hash: StateHash
    news: tuple[NewsItem, ...] = ()


class Ack(Struct, frozen=True, array_like=True, tag=11):
    """I am here; ``sender`` is who was asked, also where another passes it on."""

    probe: Probe
    sender: WireNodeId
    state_hash: StateHash
    news: tuple[NewsItem, ...] = ()


class PingReq(Struct, frozen=True, array_like=True, tag=12):
    """Ask a third member to probe ``target`` for us. SWIM §3.1."""

    probe: Probe
    sender: WireNodeId
    target: WireNodeId
    host: Host
    port: Port
    news: tuple[NewsItem, ...] = ()

    def __post_init__(self) -> None:
        _check_host(self.host)

    @property
    def address(self) -> Address:
        """Where the target is reached."""
        return Address.unpacked(self.host, self.port)


class Nack(Struct, frozen=True, array_like=True, tag=13):
    """I asked ``target`` for you and it has not answered, but I am here. Lifeguard §IV-A."""

    probe: Probe
    sender: WireNodeId
    news: ClassVar[tuple[NewsItem, ...]] = ()


class Gossip(Struct, frozen=True, array_like=True, tag=14):
    """News, at once."""

    sender: WireNodeId
    news: tuple[NewsItem, ...]


class Beacon(Struct, frozen=True, array_like=True, tag=15):
    """Broadcast on a LAN: the sender's address and its state hash."""

    alive: Alive
    state_hash: StateHash
    news: ClassVar[tuple[NewsItem, ...]] = ()

    @property
    def sender(self) -> WireNodeId:
        """The member that announces itself."""
        return self.alive.node


class Want(Struct, frozen=True, array_like=True, tag=16):
    """Request descriptions of images. ``Described`` answers by the same way, datagram or stream."""

    sender: WireNodeId
    images: Annotated[tuple[WireDigest, ...], Meta(max_length=4096)]
    news: ClassVar[tuple[NewsItem, ...]] = ()


class Described(Struct, frozen=True, array_like=True, tag=17):
    """Descriptions of images. ``too_large`` lists those that need a request over a stream."""

    sender: WireNodeId
    descriptions: tuple[ImageDescription, ...]
    too_large: tuple[WireDigest, ...] = ()
    news: ClassVar[tuple[NewsItem, ...]] = ()


Datagram = Ping | Ack | PingReq | Nack | Gossip | Beacon | Want | Described

# --- streams: a request and its reply, over HTTP ------------------------------------------------


class Entry(Struct, frozen=True, array_like=True):
    """One member in a version vector. ``age_s``: how long it has been offline, if it is."""

    node: WireNodeId
    generation: Count
    incarnation: Count
    status: Annotated[int, Meta(ge=0, le=3)]
    version: Count
    age_s: Count = 0


class SyncBegin(Struct, frozen=True, array_like=True, tag=20):
    """Begin a push-pull: a hash (8 bytes, big-endian) of each bucket of our version vector.

    The buckets are by the first bits of the node ID; their number is a power of two. Answered by
    ``SyncVector``.
    """

    sender: Alive
    hashes: Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES * 4096)]

    def __post_init__(self) -> None:
        count = len(self.hashes) // HASH_BYTES
        if len(self.hashes) % HASH_BYTES or count & (count - 1):
            raise ValueError(f"{len(self.hashes)} bytes are not a power of two of hashes")


class SyncVector(Struct, frozen=True, array_like=True, tag=21):
    """The buckets that differ, and all entries that the answering side has in them."""

    sender: Alive
    buckets: tuple[Count, ...]
    entries: tuple[Entry, ...]


class SyncHeld(Struct, frozen=True, array_like=True):
    """As ``Held``, the image by its place in the digest table of the message around it."""

    image: Count
    tags: Tags = ()
    digests: RepoDigests = ()


class SyncDelta(Struct, frozen=True, array_like=True):
    """As ``Delta``, images by their place in the digest table of the message around it."""

    owner: WireNodeId
    since: Count
    version: Count
    held: tuple[SyncHeld, ...] = ()
    released: tuple[Count, ...] = ()


class SyncMember(Struct, frozen=True, array_like=True):
    """Everything known of a member."""

    node: WireNodeId
    generation: Count
    incarnation: Count
    host: Host
    port: Port
    name: Name
    status: Annotated[int, Meta(ge=0, le=3)]
    age_s: Count = 0

    def __post_init__(self) -> None:
        _check_host(self.host)

    @property
    def address(self) -> Address:
        """Where the member is reached."""
        return Address.unpacked(self.host, self.port)


class SyncWant(Struct, frozen=True, array_like=True):
    """Request what is newer than this version of a member. All zero: the sender has nothing."""

    node: WireNodeId
    version: Count = 0


class SyncExchange(Struct, frozen=True, array_like=True, tag=22):
    """The push, and what we want pulled. Answered by another, whose ``wants`` is empty.

    ``table`` is all image digests that ``deltas`` speak of, 32 bytes each, each once.
    """

    sender: WireNodeId
    table: bytes
    members: tuple[SyncMember, ...] = ()
    deltas: tuple[SyncDelta, ...] = ()
    wants: tuple[SyncWant, ...] = ()

    def __post_init__(self) -> None:
        if len(self.table) % DIGEST_BYTES:
            raise ValueError(f"a digest table of {len(self.table)} bytes")
        places = len(self.table) // DIGEST_BYTES
        for delta in self.deltas:
            if any(held.image >= places for held in delta.held) or any(
                place >= places for place in delta.released
            ):
                raise ValueError("an image that is not in the digest table")


class StreamPing(Struct, frozen=True, array_like=True, tag=24):
    """A ping over TCP, for networks that lose UDP. memberlist's fallback probe."""

    sender: WireNodeId


class StreamAck(Struct, frozen=True, array_like=True, tag=25):
    """I am here."""

    sender: WireNodeId


Stream = SyncBegin | SyncVector | SyncExchange | StreamPing | StreamAck | Want | Described


def _check_host(host: bytes) -> None:
    if len(host) not in (4, 16):
        raise ValueError(f"an address of {len(host)} bytes")
