"""The figures at the top of a crowd's report."""

from simulations.report.page import Figure
from simulations.report.record import quantile
from simulations.report.swarm.record import CrowdRecord

MB = 1_000_000


def crowd_figures(record: CrowdRecord) -> list[Figure]:
    """Return the figures in the order in which they are shown."""
    return [*_times(record), *_origin(record), *_hosts(record), *_cost(record)]


def last_s(record: CrowdRecord) -> float | None:
    """Return when the last host had the image, in seconds after the crowd began."""
    ends = [h.came_at + h.took_s for h in record.hosts if h.came_at is not None and h.took_s]
    return max(ends, default=None)


def _times(record: CrowdRecord) -> list[Figure]:
    hosts = record.hosts
    took = sorted(h.took_s for h in hosts if h.took_s is not None)
    roles: dict[str, int] = {}
    for host in hosts:
        roles[host.role] = roles.get(host.role, 0) + 1
    rows = [
        Figure("Hosts", f"{len(hosts):,}", ", ".join(f"{n:,} {role}" for role, n in roles.items())),
        Figure("Image", f"{record.image_bytes / MB:,.1f} MB", f"{record.pieces:,} pieces"),
        Figure("Have the image", f"{len(took):,}", "hosts that left or gave up need not"),
    ]
    end = last_s(record)
    if end is None:
        return rows
    shares = [quantile(took, share) for share in (0.5, 0.99, 1.0)]
    rows += [
        Figure(
            "A host has it after",
            f"{shares[0]:.2f} s, 99th {shares[1]:.2f} s, worst {shares[2]:.2f} s",
            "since it wanted it",
        ),
        Figure("All have it after", f"{end:.2f} s"),
        Figure(
            "Fluid bound",
            f"{record.bound_s:.2f} s, {end / record.bound_s:.3f} of it"
            if record.bound_s
            else "0 s",
            "the least time, were bytes a fluid (Kumar and Ross)",
        ),
    ]
    if record.whole_pieces_s:
        rows.append(
            Figure(
                "Bound of whole pieces",
                f"{record.whole_pieces_s:.2f} s, {end / record.whole_pieces_s:.3f} of it",
                "a piece is passed on when it is whole (Mundinger and others)",
            )
        )
    return rows


def _origin(record: CrowdRecord) -> list[Figure]:
    size = max(1, record.image_bytes)
    return [
        Figure(
            "The origin sent",
            f"{record.origin_bytes / MB:,.1f} MB",
            f"{record.origin_bytes / size:.4f} copies of the image",
        )
    ]


def _hosts(record: CrowdRecord) -> list[Figure]:
    done = [h for h in record.hosts if h.took_s is not None]
    if not done or not record.image_bytes:
        return []
    wasted = sorted(h.wasted_bytes / record.image_bytes for h in done)
    given = sorted(h.given_bytes / record.image_bytes for h in record.hosts)
    rows = [
        Figure(
            "Wasted by a host",
            f"mean {sum(wasted) / len(wasted):.2%}, 99th {quantile(wasted, 0.99):.2%}, "
            f"worst {wasted[-1]:.2%}",
            "of the image: bytes that were of no use or arrived twice",
        ),
        Figure(
            "Sent by a host",
            f"median {quantile(given, 0.5):.2f}, 99th {quantile(given, 0.99):.2f}, "
            f"most {given[-1]:.2f}",
            "copies of the image",
        ),
    ]
    if record.liars:
        rows.append(Figure("Liars found out", f"{record.named:,} of {record.liars:,}"))
    return rows


def _cost(record: CrowdRecord) -> list[Figure]:
    end = last_s(record) or (record.samples[-1].at if record.samples else 0.0)
    if not end:
        return []
    sent = sorted(h.datagram_bytes / end for h in record.hosts)
    counters = record.counters
    pieces = max(1, record.pieces * sum(h.took_s is not None for h in record.hosts))
    return [
        Figure(
            "Datagrams a second and host",
            f"{record.datagrams / len(record.hosts) / end:,.1f}",
            f"{quantile(sent, 0.5) / 1000:,.1f} kB/s, most {sent[-1] / 1000:,.1f} kB/s",
        ),
        Figure(
            "Answered busy",
            f"{counters.get('fetches_failed_busy', 0) / pieces:.2f}",
            "requests for each piece that arrived",
        ),
        Figure(
            "Abandoned or passed on",
            f"{counters.get('fetches_stalled', 0):,} stalled, "
            f"{counters.get('fetches_slow', 0):,} slow, "
            f"{counters.get('leases_given_on', 0):,} leases, "
            f"{counters.get('asked_twice', 0):,} asked twice",
            "fetches of all hosts",
        ),
    ]
