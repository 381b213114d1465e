"""Bytes as a list of choices, and by them any message that the wire's types allow.

The fuzzer changes bytes; read as choices, they become messages that get past the decoder, whose
numbers sit at their limits and whose nodes and images are ones that the receiver knows.
"""

from collections.abc import Sequence
from typing import Any, Final

from msgspec import inspect

from beiran.gossip import messages
from beiran.gossip.codec import Codec

NODES: Final = tuple(bytes([letter]) * 16 for letter in b"OABCDEFG")
"""The first is the receiver itself."""
DIGESTS: Final = tuple(bytes([letter]) * 32 for letter in b"ijklmnop")
HOSTS: Final = (
    b"\x0a\x00\x00\x01",
    b"\x0a\x00\x00\x02",
    b"\x0a\x00\x00\x03",
    b"\x0a\x00\x00\x04",
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\xfd" + b"\x00" * 14 + b"\x01",
    b"\x0a\x00\x00\x00\x00",
)
TEXTS: Final = ("a:1", "b:2", "", "\0", "\x1b[31m", "é😀\u202e", "x" * 255, "linux")
INT64_MAX: Final = 2**63 - 1
UINT64_MAX: Final = 2**64 - 1  # the largest that msgpack has
_CODEC: Final = Codec("default")


class Choices:
    """Reads choices from bytes; when they are used up, every choice is the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def below(self, count: int) -> int:
        """A number from 0 to ``count - 1``; ``count`` is at most 256."""
        taken = self.take(1)
        return taken[0] % count if taken else 0

    def one(self, options: Sequence[Any]) -> Any:
        """One of at most 256 options."""
        return options[self.below(len(options))]

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes, or fewer at the end."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def number(self) -> int:
        """Any number of up to eight bytes."""
        return int.from_bytes(self.take(self.below(9)), "big")

    def chunk(self) -> bytes:
        """Bytes of a length that is chosen too, mostly short, at most 65,535."""
        length = self.below(256)
        return self.take(length if length < 255 else int.from_bytes(self.take(2), "big"))


def any_of(union: Any, choices: Choices) -> Any:
    """A message of one of the types of ``union``, by ``choices``.

    Where they would break a rule that a message checks when it is made, the next choices decide;
    once there are none, what comes is empty and right.
    """
    while True:
        try:
            return _value(_type_of(choices.one(union.__args__)), choices)
        except ValueError:
            continue


def news_item(choices: Choices) -> messages.NewsItem:
    """A piece of news as it travels inside other messages; now and then fields that are none."""
    if choices.below(16) == 15:
        return (choices.number(), choices.chunk(), (choices.one(TEXTS), None))
    return _CODEC.encode_news(any_of(messages.News, choices))


_types: dict[object, inspect.Type] = {}


def _type_of(message: object) -> inspect.Type:
    known = _types.get(message)
    if known is None:
        known = _types[message] = inspect.type_info(message)
    return known


def _value(kind: inspect.Type, choices: Choices) -> Any:
    match kind:
        case inspect.VarTupleType(item_type=inspect.AnyType()):
            return news_item(choices)
        case inspect.StructType():
            return kind.cls(*(_value(field.type, choices) for field in kind.fields))
        case inspect.VarTupleType():
            return tuple(_value(kind.item_type, choices) for _ in range(_length(choices)))
        case inspect.BytesType():
            return _bytes(kind, choices)
        case inspect.IntType():
            return _int(kind, choices)
        case inspect.StrType():
            return choices.one(TEXTS)
        case inspect.BoolType():
            return bool(choices.below(2))
    raise TypeError(f"messages have a field of a kind that is not made here: {kind}")


def _length(choices: Choices) -> int:
    length = choices.below(8)
    return length if length < 7 else choices.below(80)


def _bytes(kind: inspect.BytesType, choices: Choices) -> bytes:
    match kind.min_length, kind.max_length:
        case 16, 16:
            return bytes(choices.one(NODES))
        case 32, 32:
            return bytes(choices.one(DIGESTS))
        case 4, 16:
            return bytes(choices.one(HOSTS))
        case messages.HASH_BYTES, _:
            return bytes(choices.one((choices.take(8).ljust(8, b"\0"), bytes(32), bytes(24))))
    if choices.below(4) == 3:
        return choices.chunk()
    return b"".join(DIGESTS[: choices.below(len(DIGESTS) + 1)])


def _int(kind: inspect.IntType, choices: Choices) -> int:
    least = kind.ge if kind.ge is not None else -(2**63)
    most = kind.le if kind.le is not None else kind.lt - 1 if kind.lt is not None else UINT64_MAX
    how = choices.below(16)
    if how < 10:
        wanted = how
    elif how == 10:
        wanted = int(least)
    elif how == 11:
        wanted = int(most)
    elif how == 12:
        wanted = int(most) - 1
    elif how == 13:
        wanted = INT64_MAX + 1
    else:
        wanted = choices.number()
    return max(int(least), min(int(most), wanted))
