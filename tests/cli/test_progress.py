"""Bars and lines of a pull."""

import pytest

from beiran_cli.progress import Bars, Lines, bar_line, bar_lines, done_line
from tests.cli.rows import PULL, PULLED, progress


def test_a_bar_says_how_far_it_is_and_where_from() -> None:
    assert bar_line(progress("a", "waiting")) == f"aaaaaaaaaaaa  [{' ' * 24}]  0B/N/A  waiting"
    assert bar_line(progress("a", "fetching", 1_500_000, 3_000_000)) == (
        f"aaaaaaaaaaaa  [{'=' * 12}>{' ' * 11}]  1.5MB/3MB  "
        "1MB from peers, 500kB from the registry  35MB/s"
    )
    assert bar_line(progress("a", "verifying", 9, 9)) == (
        f"aaaaaaaaaaaa  [{'=' * 24}]  9B/9B  verifying"
    )
    assert bar_line(progress("a", "fetching", 20, 10)).count("=") == 24
    assert bar_line(progress("a", "there")) == "aaaaaaaaaaaa  already there"
    assert "fetching" not in bar_line(progress("a", "fetching", 0, 0))


def test_where_there_is_little_room_what_is_done_is_left_out_first() -> None:
    rows = [progress(letter, "done", 1, 1) for letter in "0123"]
    rows += [progress(letter, "waiting") for letter in "4567"]
    assert len(bar_lines(rows, columns=80, room=8)) == 8
    some = bar_lines(rows, columns=80, room=7)
    assert [line[0] for line in some[:-1]] == ["2", "3", "4", "5", "6", "7"]
    assert some[-1] == "8 layers, 4 of them done"
    few = bar_lines(rows, columns=80, room=3)
    assert [line[0] for line in few[:-1]] == ["4", "5"]
    for room in (-1, 0, 1, 2):
        assert len(bar_lines(rows, columns=80, room=room)) == max(0, room)


def test_no_line_is_longer_than_the_terminal() -> None:
    rows = [progress("a", "fetching", 1_500_000, 3_000_000)]
    assert {len(line) for line in bar_lines(rows, columns=40, room=9)} == {39}


def test_bars_are_drawn_over_the_last_ones_now_and_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 0.0
    bars = Bars(80, 24, clock=lambda: now)
    bars.show(PULL[0])
    assert capsys.readouterr().out.count("\n") == 1
    bars.show(PULL[1])
    assert capsys.readouterr().out == ""
    now = 1.0
    bars.show(PULL[2])
    again = capsys.readouterr().out
    assert again.startswith("\x1b[1A\r\x1b[2K")
    assert again.count("\n") == 2
    bars.close()
    assert capsys.readouterr().out.startswith("\x1b[2A")


def test_lines_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for row in PULL:
        lines.show(row)
    lines.close()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "bbbbbbbbbbbb",
        "aaaaaaaaaaaa",
    ]


def test_what_a_pull_was() -> None:
    assert done_line(PULLED).endswith("2MB from peers, 1MB from the registry, in 2.1 s")
    nothing = type(PULLED)(reference="a", image=PULLED.image, duration_s=90)
    assert done_line(nothing) == (
        "a is image 111111111111: nothing had to be fetched, in about a minute"
    )
