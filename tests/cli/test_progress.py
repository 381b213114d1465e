"""How far a pull is, on terminals of several sizes and in plain lines."""

import io
from typing import Literal

import pytest
from rich.console import Console

from beiran_cli.progress import Bars, Lines, done_line, state_words
from tests.cli.rows import PULL, PULLED, progress

State = Literal["waiting", "fetching", "verifying", "done", "there"]


class Screen:
    """A terminal of ``columns`` × ``lines`` that remembers all that was written to it."""

    def __init__(self, columns: int, lines: int) -> None:
        self.file = io.StringIO()
        self.console = Console(
            file=self.file,
            width=columns,
            height=lines,
            force_terminal=True,
            color_system=None,
            legacy_windows=False,
        )

    def last_frame(self) -> list[str]:
        """The lines of the last drawing, without control sequences."""
        frame = self.file.getvalue().rpartition("\x1b[2K")[2]
        return [line for line in frame.split("\x1b[?25h")[0].split("\n") if line.strip()]


def drawn(columns: int, lines: int, *letters_and_states: tuple[str, State]) -> list[str]:
    """The terminal's content at the end of a pull that stopped at these states."""
    screen = Screen(columns, lines)
    now = iter(range(10_000))
    bars = Bars(screen.console, clock=lambda: float(next(now)))
    for letter, state in letters_and_states:
        bars.show(progress(letter, state, 1_500_000, 3_000_000))
    bars.close()
    return screen.last_frame()


def test_a_layer_says_how_far_it_is_and_where_from() -> None:
    assert state_words(progress("a", "waiting")) == "0B/N/A  waiting"
    assert state_words(progress("a", "fetching", 1_500_000, 3_000_000)) == (
        "1.5MB/3MB  1MB peers, 500kB registry  35MB/s"
    )
    assert state_words(progress("a", "verifying", 9, 9)) == "9B/9B  verifying"
    assert state_words(progress("a", "there")) == "already there"


def test_all_of_a_layer_fits_a_terminal_of_80_columns() -> None:
    lines = drawn(80, 24, ("a", "fetching"))
    assert any(
        line.startswith("aaaaaaaaaaaa") and line.rstrip().endswith("35MB/s") for line in lines
    )
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("columns", [20, 40, 60])
def test_no_line_is_longer_than_the_terminal(columns: int) -> None:
    assert max(map(len, drawn(columns, 24, ("a", "fetching"), ("b", "done")))) <= columns


def test_a_terminal_with_few_lines_shows_the_layers_that_are_not_done() -> None:
    states: list[tuple[str, State]] = [(letter, "done") for letter in "0123"]
    states += [(letter, "waiting") for letter in "4567"]
    lines = drawn(80, 7, *states)
    assert len(lines) <= 7
    assert [line[0] for line in lines if line[0].isdigit()] == ["3", "4", "5", "6", "7"]
    assert any(line.startswith("layers") and "4 of 8 done" in line for line in lines)


def test_bars_are_redrawn_ten_times_a_second_at_most() -> None:
    screen = Screen(80, 24)
    now = 0.0
    bars = Bars(screen.console, clock=lambda: now)
    for row in PULL[:2]:  # a new layer is drawn at once
        bars.show(row)
    before = screen.file.getvalue()
    bars.show(PULL[2])
    assert screen.file.getvalue() == before
    now = 1.0
    bars.show(PULL[3])
    assert screen.file.getvalue() != before
    bars.close()


def test_each_finished_layer_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for row in PULL:
        lines.show(row)
    lines.close()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "bbbbbbbbbbbb",
        "aaaaaaaaaaaa",
    ]


def test_a_finished_pull_says_where_its_bytes_came_from() -> None:
    assert done_line(PULLED).endswith("2MB from peers, 1MB from the registry, in 2.1 s")
    nothing = type(PULLED)(reference="a", image=PULLED.image, duration_s=90)
    assert done_line(nothing) == (
        "a is image 111111111111: nothing had to be fetched, in about a minute"
    )
