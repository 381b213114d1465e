"""Python's garbage collector, made to look rarely: it takes a third of a large run's time.

A world holds millions of objects that live as long as it does, and each full collection walks
over all of them. Hardly anything here is garbage in cycles.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

YOUNG_MAX: Final = 200_000
OLD_EVERY: Final = (50, 1000)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Within this block, and for what is there when it begins, collect rarely."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, *OLD_EVERY)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
