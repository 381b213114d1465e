"""The node's UUID file: made once, read back, never overwritten."""

from pathlib import Path
from uuid import UUID

import pytest

from beiran.agent.identity import node_uuid
from beiran.errors import DataError
from beiran.ids import node_id_text


def test_the_uuid_is_made_once_and_stays(tmp_path: Path) -> None:
    config_dir = tmp_path / "etc" / "beiran"
    made = node_uuid(config_dir)
    path = config_dir / "node.uuid"
    assert UUID(path.read_text().strip()) == UUID(bytes=made)
    assert path.stat().st_mode & 0o777 == 0o644
    assert node_uuid(config_dir) == made
    assert [entry.name for entry in config_dir.iterdir()] == ["node.uuid"]


def test_a_uuid_that_an_operator_wrote_is_taken(tmp_path: Path) -> None:
    text = "6fdd0b4e-5a86-4f4c-9f0e-0b6ae2f3c111"
    (tmp_path / "node.uuid").write_text(text.upper())
    assert node_id_text(node_uuid(tmp_path)) == text


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"\xff\xfe", b"not-a-uuid", b"6fdd0b4e" * 4, b"x" * 10_000]
)
def test_a_corrupt_uuid_file_is_one_line_and_is_left_as_it_is(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "node.uuid"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        node_uuid(tmp_path)
    assert str(caught.value).startswith(f"{path}: does not contain a UUID")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == data


def test_a_config_dir_without_permission_is_one_line_that_says_what_to_do() -> None:
    # Linux makes no folder there for any user.
    with pytest.raises(DataError, match=r"; run beirand as root, or .* with --config-dir$"):
        node_uuid(Path("/sys/beiran"))


def test_a_config_dir_that_cannot_be_made_or_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Not a directory"):
        node_uuid(tmp_path / "file" / "config")
    (tmp_path / "node.uuid").mkdir()
    with pytest.raises(DataError, match="Is a directory"):
        node_uuid(tmp_path)
