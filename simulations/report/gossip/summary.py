"""The figures at the top of a cluster's report."""

from simulations.report.gossip.record import News, Record
from simulations.report.page import Figure
from simulations.report.record import quantile


def times_to(news: list[News], share: float) -> list[float]:
    """Return how long each update took to reach that share of the others, in order, if it did."""
    times = []
    for one in news:
        needed = max(1, -int(-share * one.public // 1))
        if one.public and len(one.after_s) >= needed:
            times.append(one.after_s[needed - 1])
    return sorted(times)


def figures(record: Record) -> list[Figure]:
    """Return the figures in the order in which they are shown."""
    return [*_size(record), *_dissemination(record), *_detection(record), *_cost(record)]


def _size(record: Record) -> list[Figure]:
    return [
        Figure("Hosts", f"{record.hosts:,}"),
        Figure("Virtual time", f"{record.seconds:,.1f} s"),
        Figure("Events handled", f"{record.steps:,}"),
    ]


def _dissemination(record: Record) -> list[Figure]:
    news = [one for one in record.news if one.public]
    if not news:
        return []
    rows = [Figure("Updates", f"{len(news):,}", "changes of a host's holdings")]
    for name, share in (("half", 0.5), ("99 %", 0.99), ("all", 1.0)):
        times = times_to(news, share)
        if times:
            rows.append(
                Figure(
                    f"Known to {name} after",
                    f"{quantile(times, 0.5):.3f} s, worst {times[-1]:.3f} s",
                    f"median and worst of {len(times):,} updates",
                )
            )
    unknown = len(news) - len(times_to(news, 1.0))
    rows.append(
        Figure("Not known to all", f"{unknown:,}", "others ended, or a later update overtook")
    )
    return rows


def _detection(record: Record) -> list[Figure]:
    rows = []
    for how in sorted({failure.how for failure in record.failures}):
        failures = [f for f in record.failures if f.how == how]
        rows.append(Figure(f"Hosts {how}", f"{len(failures):,}"))
        first = sorted(f.down_s[0] for f in failures if f.down_s)
        all_ = sorted(f.down_s[-1] for f in failures if f.down_s and f.witnesses <= len(f.down_s))
        suspected = sorted(f.suspected_s for f in failures if f.suspected_s is not None)
        for name, times in (
            ("First suspicion", suspected),
            ("First verdict", first),
            ("Offline everywhere", all_),
        ):
            if times:
                text = f"{quantile(times, 0.5):.3f} s, worst {times[-1]:.3f} s"
                rows.append(Figure(f"{name} after", text, f"median and worst of {len(times):,}"))
    by_healthy = sum(1 for verdict in record.false_verdicts if not verdict.hampered)
    rows.append(
        Figure(
            "False verdicts",
            f"{len(record.false_verdicts):,}, {by_healthy:,} by healthy hosts",
            "on a host that runs and can be reached",
        )
    )
    return rows


def _cost(record: Record) -> list[Figure]:
    if not record.hosts or not record.seconds:
        return []
    sent = sorted(float(size) for size in record.sent_by_host)
    rates = [quantile(sent, share) / record.seconds for share in (0.5, 0.99, 1.0)]
    packets = sum(count for s in record.samples for count, _ in s.by_kind.values())
    rows = [
        Figure(
            "Bytes sent a second",
            f"{rates[0]:,.0f}, 99th {rates[1]:,.0f}, most {rates[2]:,.0f}",
            "per host over the whole run, all headers included",
        ),
        Figure("Packets sent a second", f"{packets / record.hosts / record.seconds:,.2f}", "mean"),
    ]
    if record.dropped:
        text = ", ".join(f"{count:,} {why}" for why, count in sorted(record.dropped.items()))
        rows.append(Figure("Datagrams that were dropped", text))
    return rows
