"""The profile of a run as text."""

import cProfile
import io
import pstats
from typing import Final

PROFILE_LINES: Final = 30


def profile_text(profiler: cProfile.Profile) -> str:
    """Return the functions that took the most time, the most first."""
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(PROFILE_LINES)
    return text.getvalue()
