"""Any bytes, read as a datagram, as a stream's body and as news, raise only BadPacket.

python -m tests.fuzz.fuzz_codec [libFuzzer's options]
"""

import zlib

from tests.fuzz.harness import instrumented, run_fuzzer

with instrumented("beiran.gossip", "beiran.sansio"):
    from beiran.errors import BadPacket
    from beiran.gossip.codec import MAGIC_DEFLATED, Codec
    from beiran.gossip.messages import Datagram, Gossip, News, NewsItem, Stream
    from beiran.sansio.wire import HEADER_BYTES, unpack_untrusted
    from tests.fuzz.choices import NODES, Choices, any_of, news_item

CODEC = Codec("default")
HEAD = CODEC.encode_datagram(Gossip(NODES[0], ()))[:HEADER_BYTES]  # type: ignore[arg-type]
DEFLATED_HEAD = MAGIC_DEFLATED + HEAD[len(MAGIC_DEFLATED) :]


def test_one_input(data: bytes) -> None:
    """The first byte says where the rest is put: alone, behind a good head, deflated."""
    choices = Choices(data)
    match choices.below(8):
        case 0:
            _read(data[1:])
        case 1:
            _read(HEAD + data[1:])
        case 2:
            _read(DEFLATED_HEAD + data[1:])
        case 3:
            _read(DEFLATED_HEAD + zlib.compress(data[1:], 0))
        case 4:
            _read_garbage_news(data[1:])
        case 5:
            _read(HEAD + data[1:] + data[1:])
        case 6:
            datagram = any_of(Datagram, choices)
            encoded = CODEC.encode_datagram(datagram)
            _read(encoded)
            _read(encoded[: choices.number() % len(encoded)] + choices.chunk())
        case 7:
            encoded = CODEC.encode_stream(any_of(Stream, choices))
            _read(encoded)
            _read(encoded[: choices.number() % len(encoded)] + choices.chunk())
            _read_news([news_item(choices), CODEC.encode_news(any_of(News, choices))])


def _read(data: bytes) -> None:
    try:
        datagram = CODEC.decode_datagram_untrusted(data)
    except BadPacket:
        pass
    else:
        _read_news(list(getattr(datagram, "news", ())))
        # What is read is what was sent: encoded and read again it is the same.
        again = CODEC.decode_datagram_untrusted(CODEC.encode_datagram(datagram))
        assert again == datagram
    try:
        stream = CODEC.decode_stream_untrusted(data)
    except BadPacket:
        pass
    else:
        assert CODEC.decode_stream_untrusted(CODEC.encode_stream(stream)) == stream


def _read_garbage_news(data: bytes) -> None:
    try:
        item = unpack_untrusted(data, items_max=1024, tuples=True)
    except BadPacket:
        return
    if isinstance(item, tuple):
        _read_news([item])


def _read_news(items: list[NewsItem]) -> None:
    try:
        known = CODEC.decode_news_untrusted(items)
    except BadPacket:
        return
    for news, _ in known:
        assert CODEC.decode_news_untrusted([CODEC.encode_news(news)])[0][0] == news


if __name__ == "__main__":
    run_fuzzer("codec", test_one_input)
