"""The real codec, remembering what it has read.

One piece of news travels to a thousand hosts as the same bytes; here it is decoded once, and all
of them get the one immutable object. Nothing else differs: what is malformed is refused each time.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Raw

from beiran.gossip.codec import NEWS_MAX, Codec
from beiran.gossip.messages import News

REMEMBERED_MAX: Final = 4096


class MemoCodec(Codec):
    """Shared by all hosts of a world."""

    def __init__(self, cluster: str) -> None:
        super().__init__(cluster)
        self._read: dict[bytes, News] = {}

    def decode_news_untrusted(self, raws: Sequence[Raw]) -> list[tuple[News, Raw]]:
        """As ``Codec``'s."""
        if not raws:
            return []
        read = self._read
        known: list[tuple[News, Raw]] = []
        if len(raws) <= NEWS_MAX:
            for raw in raws:
                news = read.get(bytes(raw))
                if news is None:
                    break
                known.append((news, raw))
            else:
                return known
        known = super().decode_news_untrusted(raws)
        if len(read) >= REMEMBERED_MAX:
            read.clear()
        for news, raw in known:
            read[bytes(raw)] = news
        return known
