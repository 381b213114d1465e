"""The real codec, remembering what it has read.

One piece of news travels to a thousand hosts as the same bytes; here it is decoded once, and all
of them get the one immutable object. Nothing else differs: what is malformed is refused each time.
"""

from collections.abc import Sequence
from typing import Final

from beiran.gossip.codec import NEWS_MAX, Codec
from beiran.gossip.messages import News, NewsItem

REMEMBERED_MAX: Final = 4096


class MemoCodec(Codec):
    """Shared by all hosts of a world."""

    def __init__(self, cluster: str) -> None:
        super().__init__(cluster)
        self._read: dict[NewsItem, News] = {}

    def decode_news_untrusted(self, items: Sequence[NewsItem]) -> list[tuple[News, NewsItem]]:
        """As ``Codec``'s."""
        if not items:
            return []
        read = self._read
        known: list[tuple[News, NewsItem]] = []
        if len(items) <= NEWS_MAX:
            for item in items:
                news = read.get(item)
                if news is None:
                    break
                known.append((news, item))
            else:
                return known
        known = super().decode_news_untrusted(items)
        if len(read) >= REMEMBERED_MAX:
            read.clear()
        for news, item in known:
            read[item] = news
        return known
