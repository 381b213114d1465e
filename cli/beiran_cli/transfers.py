"""``beiran transfer``: blobs in transfer to this host or from it."""

from datetime import UTC, datetime
from typing import Annotated

from cyclopts import App, Parameter

from beiran.api.models import Change, Transfer
from beiran_cli.following import print_each
from beiran_cli.names import short_digest
from beiran_cli.options import DEFAULTS, Common
from beiran_cli.table import print_json, print_table
from beiran_cli.units import UNKNOWN, clock_time, human_size

app = App(name="transfer")

_ARROWS = {"in": "from", "out": "to"}


@app.command(name="list")
def list_transfers(
    *,
    follow: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    common: Common = DEFAULTS,
) -> None:
    """List the blobs in transfer to this host or from it.

    Parameters
    ----------
    follow
        Print a line when a transfer begins, proceeds and ends, until Ctrl-C; as JSON, an object a
        line.
    """
    if follow:
        print_each(
            common,
            lambda client: client.follow_transfers(),
            lambda change: change_line(change, datetime.now(UTC)),
        )
        return
    with common.connect() as client:
        transfers = client.get_transfers()
    if common.as_json:
        print_json(transfers)
        return
    print_table(
        ("BLOB", "NODE", "DONE", "RATE", "IMAGE"),
        [
            (
                short_digest(transfer.digest),
                _other(transfer),
                _done(transfer),
                _rate(transfer),
                transfer.reference or UNKNOWN,
            )
            for transfer in sorted(transfers, key=lambda row: (row.started_at, row.id))
        ],
    )


def change_line(change: Change, at: datetime) -> str:
    """A change of a transfer in a line: local time, blob, peer, progress, image."""
    transfer = change.transfer
    if transfer is None:
        return ""
    end = "ended" if change.change == "removed" else _rate(transfer)
    parts = [
        clock_time(at),
        short_digest(transfer.digest),
        _other(transfer),
        _done(transfer),
        end,
        transfer.reference or "",
    ]
    return "  ".join(part for part in parts if part)


def _other(transfer: Transfer) -> str:
    return f"{_ARROWS[transfer.direction]} {transfer.name}"


def _done(transfer: Transfer) -> str:
    total = UNKNOWN if transfer.bytes_total is None else human_size(transfer.bytes_total)
    return f"{human_size(transfer.bytes_done)}/{total}"


def _rate(transfer: Transfer) -> str:
    return f"{human_size(int(transfer.rate_bytes_per_s))}/s"
