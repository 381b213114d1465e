"""The chronicle of a run: which host learned what when, false verdicts, and traffic.

It subscribes to the callbacks of the world, draws no random numbers and changes nothing: a run with
a chronicle has the same trace as one without. An effect costs two look-ups; all else is counted
once a sample.
"""

from bisect import bisect_left
from collections import Counter
from typing import Final

from beiran.gossip.effects import Effect, HoldingsChanged, MemberChanged, MemberForgotten
from beiran.gossip.membership.member import Status
from beiran.ids import NodeId
from simulations.gossip.host import KINDS, Host
from simulations.gossip.world import World
from simulations.kernel.happenings import (
    Blocked,
    Happening,
    Killed,
    Leaving,
    Moved,
    PoweredOff,
    Restarted,
    Slowed,
    Started,
    Stopped,
)
from simulations.kernel.traffic import KINDS_MAX
from simulations.report.gossip.record import (
    Failure,
    FalseVerdict,
    Mark,
    News,
    Record,
    Sample,
    Span,
)
from simulations.report.record import quantile

SAMPLE_S: Final = 1.0
NEWS_MAX: Final = 5000
VERDICTS_MAX: Final = 20_000
MARKS_MAX: Final = 2000
AFTERMATH_S: Final = 15.0
"""For 15 s after a fault of a host or of the network a verdict on it is not counted as false: a
suspicion that began during the fault may run that long."""

_WORDS: Final = {Status.SUSPECT: "suspect", Status.DOWN: "down", Status.LEFT: "left"}


class _Failing:
    """A failure while others detect it."""

    def __init__(self, host: int, at: float, how: str, witnesses: int) -> None:
        self.host, self.at, self.how, self.witnesses = host, at, how, witnesses
        self.suspected_at: float | None = None
        self.down_at: dict[int, float] = {}

    def kept(self) -> Failure:
        """For the record."""
        suspected_s = None if self.suspected_at is None else self.suspected_at - self.at
        down_s = sorted(at - self.at for at in self.down_at.values())
        return Failure(self.host, self.at, self.how, self.witnesses, suspected_s, down_s)


class Chronicle:
    """Collects from now on; ``record`` returns the record.

    Args:
      sample_s: virtual seconds between two counts of the cluster.
    """

    def __init__(self, world: World, *, sample_s: float = SAMPLE_S) -> None:
        self._world = world
        self._numbers: dict[NodeId, int] = {}
        self._news: list[tuple[int, float, int, list[float]]] = []
        self._versions: dict[NodeId, tuple[list[int], list[int]]] = {}
        self._known: dict[tuple[int, NodeId], int] = {}
        self._started: dict[int, float] = {}
        self._left_out = 0
        self._failing: dict[NodeId, _Failing] = {}
        self._failures: list[_Failing] = []
        self._false: list[FalseVerdict] = []
        self._ill_until: dict[int, float] = {}
        self._network_ill_at = -AFTERMATH_S
        self._marks: list[Mark] = []
        self._samples: list[Sample] = []
        self._sent: list[int] = []
        self._by_tag: list[tuple[int, int]] = [(0, 0)] * KINDS_MAX
        self._views: dict[tuple[int, NodeId], Status] = {}
        self._counts: Counter[tuple[NodeId, Status]] = Counter()
        self._truth = _Spans()
        self._seen = _Spans()
        world.found.append(self._found)
        world.happened.append(self._happened)
        world.network.changed.append(self._network_changed)
        world.every(sample_s, self._sample)

    def record(self, title: str, about: dict[str, str] | None = None) -> Record:
        """Return the record so far. The chronicle goes on."""
        world = self._world
        self._sample()
        return Record(
            title=title,
            about=about or {},
            hosts=len(world.hosts),
            seconds=world.now,
            steps=world.steps,
            news=[News(owner, at, public, list(s)) for owner, at, public, s in self._news],
            failures=[failing.kept() for failing in self._failures],
            false_verdicts=list(self._false),
            marks=list(self._marks),
            samples=list(self._samples),
            truth=self._truth.until(world.now),
            seen=self._seen.until(world.now),
            dropped=dict(world.dropped),
            sent_by_host=[host.traffic.bytes for host in world.hosts],
            left_out=self._left_out,
        )

    # --- effects of cores -------------------------------------------------------------------

    def _found(self, host: Host, effect: Effect) -> None:
        kind = type(effect)
        if kind is HoldingsChanged:
            self._holdings_changed(host, effect)  # type: ignore[arg-type]
        elif kind is MemberChanged:
            self._member_changed(host, effect)  # type: ignore[arg-type]
        elif kind is MemberForgotten:
            self._see(host.number, effect.node, Status.ALIVE)  # type: ignore[union-attr]

    def _holdings_changed(self, host: Host, effect: HoldingsChanged) -> None:
        owner = effect.owner
        if owner == host.id:
            self._begin_news(host, effect.version)
            return
        announced = self._versions.get(owner)
        if announced is None:
            return
        versions, places = announced
        before = self._known.get((host.number, owner), 0)
        self._known[host.number, owner] = effect.version
        started = self._started.get(host.number, 0.0)
        for at in range(bisect_left(versions, before + 1), len(versions)):
            if versions[at] > effect.version:
                break
            _, began, _, after_s = self._news[places[at]]
            if began >= started:  # a host that started later is not among the others
                after_s.append(self._world.now - began)

    def _begin_news(self, host: Host, version: int) -> None:
        if len(self._news) >= NEWS_MAX:
            self._left_out += 1
            return
        public = sum(1 for other in self._world.hosts if other.online and other is not host)
        versions, places = self._versions.setdefault(host.id, ([], []))
        if versions and version <= versions[-1]:  # a process that begins anew
            return
        versions.append(version)
        places.append(len(self._news))
        self._news.append((host.number, self._world.now, public, []))

    def _member_changed(self, host: Host, effect: MemberChanged) -> None:
        member = effect.member
        if member.node == host.id:
            return
        self._see(host.number, member.node, member.status)
        if member.status in (Status.SUSPECT, Status.DOWN):
            failing = self._failing.get(member.node)
            if failing is not None:
                self._note_detection(failing, host, member.status)
            elif member.status is Status.DOWN and effect.previous is not None:
                self._judge(host, member.node)

    def _note_detection(self, failing: _Failing, host: Host, status: Status) -> None:
        now = self._world.now
        if self._started.get(host.number, 0.0) > failing.at:
            return  # it started later and learned from the others
        if failing.suspected_at is None:
            failing.suspected_at = now
        if status is Status.DOWN:
            failing.down_at.setdefault(host.number, now)

    def _judge(self, observer: Host, node: NodeId) -> None:
        """Note a false verdict: its subject runs, is well, and can be reached."""
        world, now = self._world, self._world.now
        number = self._number(node)
        if number is None or len(self._false) >= VERDICTS_MAX:
            return
        subject = world.hosts[number]
        reached = world.network.passes(number, observer.number)
        reached = reached and world.network.passes(observer.number, number)
        if not subject.online or not reached or now - self._network_ill_at < AFTERMATH_S:
            return
        if subject.hampered or now < self._ill_until.get(number, 0.0):
            return
        hampered = observer.hampered or now < self._ill_until.get(observer.number, 0.0)
        self._false.append(FalseVerdict(now, observer.number, number, hampered))

    def _number(self, node: NodeId) -> int | None:
        if len(self._numbers) != len(self._world.hosts):
            self._numbers = {host.id: host.number for host in reversed(self._world.hosts)}
        return self._numbers.get(node)

    # --- faults -----------------------------------------------------------------------------

    def _happened(self, host: Host, happening: Happening) -> None:
        now = self._world.now
        first = not any(mark.host == host.number for mark in self._marks)
        if not (first and isinstance(happening, Started)):  # that is how the cluster begins
            self._mark(host.number, str(happening))
        match happening:
            case Started():
                self._started[host.number] = now
                self._truth.end(host.number, now)
                self._failing.pop(host.id, None)
                self._ill_until[host.number] = now + AFTERMATH_S
                self._forget_view(host)
            case Killed():
                self._ends(host, "killed")
            case PoweredOff():
                self._ends(host, "off")
            case Leaving():
                self._truth.begin(host.number, now, "leaving")
            case Stopped(seconds=seconds):
                self._ill_for(host, seconds, "stopped")
            case Blocked(seconds=seconds):
                self._ill_for(host, seconds, "blocked")
            case Slowed():
                self._ill_until[host.number] = now + AFTERMATH_S
            case Restarted() | Moved():
                pass

    def _ends(self, host: Host, how: str) -> None:
        """A process ends: a failure, unless it had announced its leave."""
        now = self._world.now
        left = self._truth.state(host.number) == "leaving"
        self._truth.begin(host.number, now, "ended" if left else how)
        self._forget_view(host)
        if host.running and not host.clone and not left:
            public = sum(1 for h in self._world.hosts if h.online and h is not host)
            failing = _Failing(host.number, now, how, public)
            self._failing[host.id] = failing
            self._failures.append(failing)

    def _ill_for(self, host: Host, seconds: float, state: str) -> None:
        now = self._world.now
        until = max(now + seconds, self._ill_until.get(host.number, 0.0) - AFTERMATH_S)
        self._truth.add(host.number, now, now + seconds, state)
        self._ill_until[host.number] = until + AFTERMATH_S

    def _forget_view(self, host: Host) -> None:
        """The view of others ends with the process that had it."""
        for pair in [pair for pair in self._views if pair[0] == host.number]:
            self._see(*pair, Status.ALIVE)

    def _network_changed(self, description: str) -> None:
        self._network_ill_at = self._world.now
        self._mark(-1, description)

    def _mark(self, host: int, text: str) -> None:
        if len(self._marks) < MARKS_MAX:
            self._marks.append(Mark(self._world.now, host, text))

    # --- views ------------------------------------------------------------------------------

    def _see(self, observer: int, subject: NodeId, status: Status) -> None:
        before = self._views.get((observer, subject), Status.ALIVE)
        if before is status:
            return
        if before is not Status.ALIVE:
            self._counts[subject, before] -= 1
            if not self._counts[subject, before]:
                del self._counts[subject, before]
        if status is Status.ALIVE:
            self._views.pop((observer, subject), None)
        else:
            self._views[observer, subject] = status
            self._counts[subject, status] += 1

    # --- samples ----------------------------------------------------------------------------

    def _sample(self) -> None:
        world, now = self._world, self._world.now
        if self._samples and self._samples[-1].at == now:
            return
        hosts = world.hosts
        online = sum(1 for host in hosts if host.online)
        totals = [sum(host.traffic.bytes_by_tag) for host in hosts]
        before = self._sent + [0] * (len(totals) - len(self._sent))
        sent = sorted(float(a - b) for a, b in zip(totals, before, strict=True)) or [0.0]
        self._sent = totals
        suspected = missed = 0
        for (_, status), count in self._counts.items():
            if status is Status.SUSPECT:
                suspected += count
            else:
                missed += count
        spread = (int(sent[0]), quantile(sent, 0.5), quantile(sent, 0.99), int(sent[-1]))
        self._samples.append(
            Sample(now, online, suspected, missed, spread, self._traffic_since_last())
        )
        self._sample_views(now, max(1, online))

    def _traffic_since_last(self) -> dict[str, tuple[int, int]]:
        hosts = self._world.hosts
        if not hosts:
            return {}
        packets = map(sum, zip(*(h.traffic.packets_by_tag for h in hosts), strict=True))
        sizes = map(sum, zip(*(h.traffic.bytes_by_tag for h in hosts), strict=True))
        totals = list(zip(packets, sizes, strict=True))
        since = {
            KINDS.get(tag, f"kind {tag}"): (new[0] - old[0], new[1] - old[1])
            for tag, (new, old) in enumerate(zip(totals, self._by_tag, strict=True))
            if new != old
        }
        self._by_tag = totals
        return since

    def _sample_views(self, now: float, online: int) -> None:
        worst: dict[int, tuple[int, Status]] = {}
        for (node, status), count in self._counts.items():
            number = self._number(node)
            if number is not None:
                worst[number] = max(worst.get(number, (0, Status.ALIVE)), (count, status))
        for number in self._seen.open() - worst.keys():
            self._seen.end(number, now)
        for number in sorted(worst):
            count, status = worst[number]
            share = round(min(1.0, count / max(1, online - 1)), 2)
            self._seen.begin(number, now, _WORDS[status], share)


class _Spans:
    """Spans of hosts; each host may have one open."""

    def __init__(self) -> None:
        self._done: list[Span] = []
        self._open: dict[int, tuple[float, str, float]] = {}

    def open(self) -> set[int]:
        """Return the hosts that have an open span."""
        return set(self._open)

    def state(self, host: int) -> str:
        """Return the state of the open span; empty if there is none."""
        return self._open[host][1] if host in self._open else ""

    def add(self, host: int, start: float, end: float, state: str) -> None:
        """Add a span whose end is known."""
        self._done.append(Span(host, start, end, state))

    def begin(self, host: int, at: float, state: str, share: float = 1.0) -> None:
        """Open a span, unless an equal one is open; another is ended."""
        if host in self._open and self._open[host][1:] == (state, share):
            return
        self.end(host, at)
        self._open[host] = (at, state, share)

    def end(self, host: int, at: float) -> None:
        """End the open span."""
        if host in self._open:
            start, state, share = self._open.pop(host)
            self._done.append(Span(host, start, at, state, share))

    def until(self, now: float) -> list[Span]:
        """Return all spans in order; open ones end at ``now``."""
        still = [Span(h, at, now, state, share) for h, (at, state, share) in self._open.items()]
        return sorted([*self._done, *still], key=lambda span: (span.start, span.host))
