"""The state of a download: its stages, its invariants, and that no other module writes it."""

import ast
from pathlib import Path

import pytest

import beiran.swarm
from beiran.ids import Digest, NodeId
from beiran.swarm.config import PIECE_BYTES_SMALL
from beiran.swarm.download import (
    ORIGIN_FAILURES_MAX,
    ORIGIN_PAUSE_MAX_S,
    Download,
    Neighbour,
    OriginAccess,
    Stage,
)
from beiran.swarm.pieces import cut

OWN, A, B = (NodeId(bytes([n]) * 16) for n in range(3))
HASH = b"h" * 16
PACKAGE = Path(beiran.swarm.__file__).parent
OWNED = {"download", "neighbour", "suspect", "banned", "registration", "origin", "evidence"}
"""What the other modules call a download, a neighbour, and the parts of a download."""


@pytest.fixture
def download() -> Download:
    download = Download(Digest(bytes(32)), cut(3 * PIECE_BYTES_SMALL), 0, OWN)
    for node in (A, B):
        neighbour = download.add(Neighbour(node, heard_from=True))
        download.set_held(neighbour, download.pieces.all)
    return download


def written(module: Path) -> set[str]:
    """The attributes of downloads, neighbours and their parts to which a module assigns."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign | ast.Delete):
            targets = list(node.targets)
        elif isinstance(node, ast.AugAssign):
            targets = [node.target]
        for target in targets:
            for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                owner = part.value if isinstance(part, ast.Attribute | ast.Subscript) else None
                if isinstance(part, ast.Subscript) and isinstance(owner, ast.Attribute):
                    owner = owner.value
                name = owner.attr if isinstance(owner, ast.Attribute) else None
                if isinstance(owner, ast.Name):
                    name = owner.id
                if name in OWNED:
                    found.add(ast.unparse(part))
    return found


def test_no_other_module_writes_the_state_of_a_download() -> None:
    modules = [path for path in PACKAGE.rglob("*.py") if path.name != "download.py"]
    assert len(modules) > 15
    assert {path.name: written(path) for path in modules if written(path)} == {}
    assert written(PACKAGE / "download.py")


def test_a_piece_is_held_if_and_only_if_its_hash_is_known(download: Download) -> None:
    download.accept(0, HASH, A)
    download.accept(1, HASH, None)
    assert (download.held, set(download.hashes), download.first_hand) == (0b011, {0, 1}, 0b010)
    download.revoke(0b001)
    assert (download.held, set(download.hashes)) == (0b010, {1})
    assert download.missing == 0b101


def test_a_revoked_piece_is_not_asked_from_its_supplier(download: Download) -> None:
    download.accept(0, HASH, A)
    assert download.availability == [2, 2, 2]
    download.revoke(0b001)
    assert download.availability == [1, 2, 2]
    assert download.neighbours[A].usable == 0b110


def test_availability_counts_the_neighbours_that_can_be_asked(download: Download) -> None:
    download.dispute(download.neighbours[A], 2, disputed=True)
    assert download.availability == [2, 2, 1]
    download.ban(download.neighbours[B])
    assert download.availability == [1, 1, 0]
    download.dispute(download.neighbours[A], 2, disputed=False)
    assert download.remove(A)
    assert download.availability == [0, 0, 0]
    assert not download.remove(A)


def test_a_piece_is_in_flight_until_its_last_fetch_ends(download: Download) -> None:
    download.begin_fetch(0b011)
    download.begin_fetch(0b010)
    download.end_fetch(0b011)
    assert (download.in_flight, download.fetches) == (0b010, {1: 1})
    download.end_fetch(0b010)
    assert (download.in_flight, download.fetches) == (0, {})


def test_verifying_begins_once_when_all_pieces_are_held(download: Download) -> None:
    assert not download.begin_verifying()
    download.restore(dict.fromkeys(range(3), HASH))
    assert download.begin_verifying()
    assert not download.begin_verifying()
    download.note_damage()
    download.resume()
    assert download.stage is Stage.FETCHING
    assert download.begin_verifying()


def test_a_blob_is_reported_as_stuck_once_until_it_is_wanted_again(download: Download) -> None:
    def note(now: float, *, any_left: bool = False) -> bool:
        return download.note_sources(now, any_left=any_left, patience_s=3.0)

    assert [note(0.0), note(2.0), note(2.5, any_left=True), note(3.0)] == [False] * 4
    assert note(6.0)
    assert not note(10.0)
    download.want(0)
    assert [note(10.0), note(13.0)] == [False, True]


def test_an_origin_that_fails_too_often_is_not_counted_on() -> None:
    origin = OriginAccess()
    assert not origin.allowed
    origin.offer(0.0)
    pauses = [origin.fail(0.0) for _ in range(ORIGIN_FAILURES_MAX)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == ORIGIN_PAUSE_MAX_S
    assert (origin.allowed, origin.possible) == (True, False)
    origin.succeed()
    assert origin.possible
    origin.refuse()
    assert not origin.allowed
