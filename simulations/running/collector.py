"""Python's garbage collector, run rarely: by default it takes a third of a large run's time.

A world holds millions of objects that live as long as it does, and each full collection visits all
of them. Few objects here are garbage in cycles.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

YOUNG_MAX: Final = 200_000  # default 700
OLD_EVERY: Final = (50, 1000)  # default (10, 10)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collect rarely while the block runs, and never what exists when it begins."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, *OLD_EVERY)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
