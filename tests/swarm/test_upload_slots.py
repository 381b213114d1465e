"""How many uploads run at once, which requests wait, and which is next."""

from beiran.ids import Digest, NodeId
from beiran.swarm.config import SwarmConfig
from beiran.swarm.upload_slots import Upload, UploadSlots

BLOB = Digest(bytes(32))


def peer(number: int) -> NodeId:
    return NodeId(bytes([number]) * 16)


def take(
    uploads: UploadSlots, number: int, piece: int, *, active: int = 0, whole: bool = False
) -> Upload | None:
    return uploads.begin(peer(number), BLOB, piece, active, whole=whole)


def test_requests_run_then_wait_then_get_busy() -> None:
    config = SwarmConfig(uploads_first=2, uploads_min=2, uploads_waiting=1)
    uploads = UploadSlots(config)
    taken = [take(uploads, n, piece=n) for n in range(4)]
    assert [upload and upload.admitted for upload in taken] == [True, True, False, None]


def test_a_waiting_request_starts_when_an_upload_ends() -> None:
    uploads = UploadSlots(SwarmConfig(uploads_first=1, uploads_min=1))
    first, second = take(uploads, 1, piece=1), take(uploads, 2, piece=2)
    assert first is not None
    assert second is not None
    assert not second.admitted
    assert uploads.end(first.number, 1000, 0.1) == [second]
    assert second.admitted
    assert uploads.end(first.number, 0, 0.1) == []


def test_the_next_slot_goes_to_the_least_served_peer_and_then_piece() -> None:
    uploads = UploadSlots(SwarmConfig(uploads_first=1, uploads_min=1, uploads_waiting=4))
    running = take(uploads, 1, piece=1)
    take(uploads, 2, piece=2, active=4)
    given_before = take(uploads, 3, piece=1, active=1)
    fresh = take(uploads, 4, piece=4, active=1)
    assert running is not None
    assert fresh is not None
    assert uploads.end(running.number, 1, 0.1)[0] is fresh
    assert uploads.end(fresh.number, 1, 0.2)[0] is given_before


def test_a_piece_of_a_blob_in_flight_is_sent_to_few_at_once() -> None:
    uploads = UploadSlots(SwarmConfig(uploads_first=9, uploads_of_piece=2))
    assert take(uploads, 1, piece=5) is not None
    assert take(uploads, 2, piece=5) is not None
    assert take(uploads, 3, piece=5) is None
    assert take(uploads, 3, piece=5, whole=True) is not None


def test_a_fast_link_has_more_slots() -> None:
    config = SwarmConfig()
    uploads = UploadSlots(config)
    for step in range(200):
        upload = take(uploads, 1, piece=step)
        assert upload is not None
        uploads.end(upload.number, 1_000_000, step * 0.01)  # 100 MB/s
    assert uploads.slots() == config.uploads_max


def test_the_count_of_sent_pieces_can_be_forgotten() -> None:
    uploads = UploadSlots(SwarmConfig())
    upload = take(uploads, 1, piece=1)
    assert upload is not None
    assert len(uploads) == 1
    uploads.end(upload.number, 1, 0.0)
    uploads.forget(BLOB)
    assert len(uploads) == 0
