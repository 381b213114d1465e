"""Plots as PNG, as all reports draw them. Needs matplotlib (the extra ``simulations``)."""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from beiran.errors import SettingsError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")

WIDTH_IN: Final = 8.0
DPI: Final = 110
INK: Final = "#2b2f36"
LINES: Final = ("#1f6feb", "#d97706", "#b42318", "#0f766e", "#7c3aed")
KIND_COLOURS: Final = (
    "#1f6feb",
    "#7fb2ff",
    "#d97706",
    "#f6c177",
    "#0f766e",
    "#74c7b8",
    "#7c3aed",
    "#c4a7f5",
    "#b42318",
    "#9aa1ab",
)


def draw_each(
    record: T, *plots: "tuple[str, str, Callable[[T], Figure | None]]"
) -> dict[str, tuple[str, bytes]]:
    """Return title and PNG of these plots by file name; a plot without data is left out."""
    drawn = {}
    for name, title, make in plots:
        figure = make(record)
        if figure is not None:
            drawn[name] = (title, png(figure))
    return drawn


def png(figure: "Figure") -> bytes:
    """Return a figure as PNG; equal figures give equal bytes."""
    made = io.BytesIO()
    figure.savefig(made, format="png", dpi=DPI, metadata={"Software": None})
    return made.getvalue()


def new_figure(
    height_in: float, rows: int = 1, heights: Sequence[float] | None = None
) -> "tuple[Figure, list[Axes]]":
    """Return an empty figure with ``rows`` axes below each other.

    Args:
      heights: of the rows, relative to each other; equal if not given.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SettingsError("plots need matplotlib: pip install 'beiran[simulations]'") from None
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    grid = figure.add_gridspec(rows, 1, height_ratios=heights)
    all_axes = [figure.add_subplot(grid[row]) for row in range(rows)]
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#9aa1ab")
        axes.tick_params(colors=INK, labelsize=9)
        axes.grid(visible=True, color="#e5e7eb", linewidth=0.7)
        axes.set_axisbelow(True)
    return figure, all_axes


def label_axes(axes: "Axes", x: str, y: str) -> None:
    """Label both axes."""
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
