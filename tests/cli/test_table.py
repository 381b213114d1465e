"""Tables are aligned, fit the terminal, and let no host speak to it."""

import pytest

from beiran_cli.main import common_options_last
from beiran_cli.table import Names, print_fields, table_lines


def test_columns_are_as_wide_as_their_widest_cell_and_nothing_trails() -> None:
    lines = table_lines(("A", "LONG", "C"), [("wide-cell", "x", ""), ("y", "z", "w")], room=None)
    assert lines == [
        "A           LONG   C\n",
        "wide-cell   x\n",
        "y           z      w\n",
    ]


def test_wide_and_combining_characters_keep_the_columns_aligned() -> None:
    lines = table_lines(("A", "B"), [("日本", "x"), ("e\u0301", "y")], room=None)
    assert lines == ["A      B\n", "日本   x\n", "e\u0301      y\n"]


def test_a_long_cell_does_not_widen_the_other_rows_beyond_the_terminal() -> None:
    tag = "registry.example/" + "t" * 300 + ":1"
    nodes = Names([f"build-{number}" for number in range(9)])
    lines = table_lines(
        ("IMAGE", "ID", "CREATED", "SIZE", "NODES"),
        [(tag, "a" * 12, "2 weeks ago", "4.98MB", nodes), ("b:1", "c" * 12, "now", "1B", nodes)],
        room=80,
    )
    assert max(len(line.rstrip("\n")) for line in lines) <= 80
    assert "…" in lines[1]
    assert "a" * 12 in lines[1]
    assert lines[2].startswith("b:1 ")
    assert all("build-0" in line and "(+" in line for line in lines[1:])


def test_a_table_of_nodes_fits_80_columns() -> None:
    row = ("7c6181e5", "build-1", "10.77.0.1:8888", "online (suspect)", "2 minutes ago")
    lines = table_lines(tuple("ABCDEF"), [(*row, "docker 20.10.24+dfsg1 overlay2")], room=80)
    assert max(len(line.rstrip("\n")) for line in lines) <= 80
    assert lines[1].endswith("…\n")


@pytest.mark.parametrize("room", [1, 30, 61, 62])
def test_no_column_is_cut_below_a_short_digest(room: int) -> None:
    digest = "0123456789ab"
    (_, line) = table_lines(("A", "B"), [(digest, "日" * 40)], room=room)
    assert line.startswith(digest)
    assert "日" in line


def test_control_characters_from_other_hosts_are_shown_as_question_marks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = table_lines(("A", "B"), [("a\x1b[31m", "b\nc")], room=None)
    assert lines[1] == "a?[31m   b?c\n"
    print_fields([("Tags", ["x\x07", "y"])])
    assert capsys.readouterr().out == "Tags   x?\n       y\n"


def test_names_that_do_not_fit_are_counted() -> None:
    names = Names(["host-a", "host-b", "host-c", "host-d"])
    assert names.fit(None) == "host-a, host-b, host-c, host-d"
    assert names.fit(30) == "host-a, host-b, host-c, host-d"
    assert names.fit(29) == "host-a, host-b, host-c (+1)"
    assert names.fit(26) == "host-a, host-b (+2)"
    assert names.fit(18) == "host-a (+3)"
    assert names.fit(3) == "host-a (+3)"
    assert Names([]).fit(3) == ""
    assert Names(["a-long-name"]).fit(3) == "a-long-name"


@pytest.mark.parametrize(
    ("given", "moved"),
    [
        ("node list", "node list"),
        ("--output json node list", "node list --output json"),
        ("--url=http://h node --output json list", "node list --url=http://h --output json"),
        ("node show -- --output", "node show -- --output"),
        ("--socket /s node show -- x", "node show --socket /s -- x"),
        ("node list --socket", "node list --socket"),
        ("--outputs x", "--outputs x"),
    ],
)
def test_common_options_move_behind_the_command(given: str, moved: str) -> None:
    assert common_options_last(given.split()) == moved.split()
