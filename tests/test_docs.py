"""What the documents say is there, and what is there they say."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from beiran.settings.settings import (
    FILE_KEYS,
    OPTION_NAMES,
    EngineSpec,
    Settings,
    load_settings,
    option_flag,
    option_variable,
)
from beiran_cli.main import COMMON_OPTIONS, make_app

ROOT = Path(__file__).parent.parent
COMMANDS_PAGE = (ROOT / "docs" / "reference" / "commands.md").read_text()
SETTINGS_PAGE = (ROOT / "docs" / "reference" / "settings.md").read_text()
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
}
README = (ROOT / "README.md").read_text()
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
COMMON_VARIABLES = {"BEIRAN_SOCKET", "BEIRAN_URL", "BEIRAN_OUTPUT"}
NOT_ASKING = ("beiran agent", "beiran demo", "beiran plan")
BUILT_IN = {"--help", "-h", "--version"}


def commands(app: App, path: tuple[str, ...] = ()) -> Iterator[tuple[str, App]]:
    """Every command that does something, with its full name."""
    for name in app:
        if name in BUILT_IN:
            continue
        command = app[name]
        full = (*path, name)
        if command.default_command is not None:
            yield " ".join(("beiran", *full)), command
        yield from commands(command, full)


def options(command: App) -> set[str]:
    """Its own options in all spellings; not what it takes by position."""
    arguments = command.assemble_argument_collection()
    return {name for argument in arguments for name in argument.names if name.startswith("--")}


COMMANDS = dict(commands(make_app()))


def section(title: str, text: str) -> str:
    """What stands below a heading, up to the next of any level."""
    found = re.search(rf"^#+ {re.escape(title)}$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no heading {title!r}"
    return found[1]


def test_every_command_has_a_heading_and_no_other_has() -> None:
    headings = re.findall(r"^## (beiran .*)$", COMMANDS_PAGE, re.MULTILINE)
    assert headings == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_in_its_section(name: str) -> None:
    documented = set(OPTION.findall(section(name, COMMANDS_PAGE)))
    own = options(COMMANDS[name])
    if name == "beiran agent":
        assert own == {*map(option_flag, OPTION_NAMES), "--no-beacon"}
        assert documented == set()  # they are the settings, which have a chapter
        return
    assert documented == own - set(COMMON_OPTIONS)


def test_the_common_options_are_documented_with_their_variables() -> None:
    asking = [name for name in COMMANDS if name not in NOT_ASKING]
    for name in asking:
        assert set(COMMON_OPTIONS) <= options(COMMANDS[name])
    rows = table_rows(section("Common options", COMMANDS_PAGE))
    assert {OPTION.findall(row[0])[0] for row in rows} == set(COMMON_OPTIONS)
    assert {row[1].strip("`") for row in rows} == COMMON_VARIABLES


def test_every_setting_is_documented_in_its_three_spellings_and_no_other_is() -> None:
    rows = table_rows(section("Table of settings", SETTINGS_PAGE))
    assert [OPTION.findall(row[0])[0] for row in rows] == [*map(option_flag, OPTION_NAMES)]
    assert [row[1].strip("`") for row in rows] == [*map(option_variable, OPTION_NAMES)]
    assert [row[2].strip("`") for row in rows if row[2]] == list(FILE_KEYS)


def test_the_documented_defaults_are_the_defaults() -> None:
    defaults = Settings(name="", engine=EngineSpec("none"))
    for row in table_rows(section("Table of settings", SETTINGS_PAGE)):
        name = OPTION.findall(row[0])[0].removeprefix("--").replace("-", "_")
        documented = row[3].strip("`")
        value = getattr(defaults, name)
        if isinstance(value, bool):
            assert documented == str(value).lower()
        elif value == ():
            assert documented == "none"
        elif name not in ("name", "advertise", "engine", "docker_config", "cache_bytes"):
            assert documented == str(value)


def test_options_and_variables_in_the_text_are_there() -> None:
    known = set(COMMON_OPTIONS) | {"--help", "--version"}
    for command in COMMANDS.values():
        known |= options(command)
    text = FENCED.sub("", COMMANDS_PAGE + SETTINGS_PAGE)
    assert set(OPTION.findall(text)) <= known
    variables = set(re.findall(r"BEIRAN_[A-Z_]+", COMMANDS_PAGE + SETTINGS_PAGE))
    assert variables == {*map(option_variable, OPTION_NAMES), *COMMON_VARIABLES}


COMMAND = re.compile(r"(?<![\w/])(?<!from )beiran ((?!-)[a-z]+)(?: (list|show))?(?![\w.])")


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if COMMAND.search(text)])
def test_commands_in_the_text_are_there(page: str) -> None:
    groups = {name.split()[1] for name in COMMANDS}
    for first, second in COMMAND.findall(code(PAGES[page])):
        full = " ".join(filter(None, ("beiran", first, second)))
        assert full in COMMANDS or (first in groups and not second), full


def test_the_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for document in (README, (ROOT / "CONTRIBUTING.md").read_text()):
        named = set(re.findall(r"\bmake ([a-z-]+)", code(document)))
        assert named <= targets
    assert {"demo", "test"} <= set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE))


@pytest.mark.parametrize("document", PAGES)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", path.read_text()):
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}
            assert anchor in anchors, link


def test_the_example_settings_are_settings_and_all_of_them(tmp_path: Path) -> None:
    example = (ROOT / "deploy" / "beiran.toml").read_text()
    keys = re.findall(r"^#([a-z_]+) = ", example, re.MULTILINE)
    assert sorted(keys) == sorted(FILE_KEYS)
    (tmp_path / "beiran.toml").write_text(re.sub(r"^#([a-z_]+ = )", r"\1", example, flags=re.M))
    settings = load_settings({"config_dir": str(tmp_path)}, {})
    assert settings.name == "host-1"
    assert len(settings.join) == 3
    tables = example[example.index("# [origins.") :].replace("# ", "")
    (tmp_path / "beiran.toml").write_text(tables)
    assert len(load_settings({"config_dir": str(tmp_path)}, {}).origins) == 2


def code(text: str) -> str:
    """What stands in code spans and blocks."""
    return "\n".join(FENCED.findall(text) + re.findall(r"`[^`\n]+`", FENCED.sub("", text)))


def table_rows(text: str) -> list[list[str]]:
    """The cells of the table in ``text``, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
