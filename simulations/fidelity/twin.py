"""The simulator's side of a comparison: the lab's run on virtual time, on as few cores.

In a ``World`` every input is handled at once. In the lab thirty agents share two cores, so an
update that costs each agent a few milliseconds reaches the last one after all had their turn.
``SharedMachine`` adds this, with the times of a ``HostModel`` that were measured on the machine: a
process waits for a core, wakes up, handles the inputs that wait, and writes their effects into its
database before it reports them. The packets of kernels (ARP, TCP keepalive) count as well.
"""

import statistics
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, Final

import msgspec
from typing_extensions import override

from beiran.gossip.effects import Effect, HoldingsChanged, MemberChanged
from beiran.gossip.membership.member import Address, Status
from simulations.fidelity.kernels import KernelWorld
from simulations.fidelity.measured import Costs, Counts, LabRun, Measured
from simulations.gossip.host import Host
from simulations.kernel.chance import stream
from simulations.kernel.links import Link, Uniform
from simulations.kernel.processes import Inputs, Processes
from simulations.kernel.time import Action, VirtualTime

BATCH_MAX: Final = 64  # beiran/net/udp.py takes as many datagrams at once
TRAFFIC_SETTLE_S: Final = 60.0
SETTLE_S: Final = 15.0
BETWEEN_NEWS_S: Final = 0.5
BETWEEN_FAILURES_S: Final = 1.0
WITHIN_S: Final = 60.0


class HostModel(msgspec.Struct, frozen=True, kw_only=True):
    """The processor time of a process's work, and its waits for a core.

    Attributes:
      cores: shared by all hosts.
      wake_s: to wake a process that sleeps: the switch to it, epoll, trio's scheduler.
      input_s: for each datagram or timer: decode, merge, encode, send.
      tcp_s: for each step of a TCP request or connection.
      record_s: to write effects into the database (a thread, a transaction) and to report them.
      observe_s: for the lab's own reader to take one event; it needs a core too.
      latency_s: of a datagram between two hosts, without all this.
      waits_s: how long a process that wakes up waits for a core because of other work on the
        machine; drawn from these.
      ends_s: from SIGKILL until the kernel has closed the process's sockets; drawn from these.
    """

    cores: int = 2
    wake_s: float = 0.0002
    input_s: float = 0.0001
    tcp_s: float = 0.0005
    record_s: float = 0.0015
    observe_s: float = 0.0001
    latency_s: float = 0.00001
    waits_s: tuple[float, ...] = (0.0,)
    ends_s: tuple[float, ...] = (0.02,)

    @classmethod
    def of(cls, lab: LabRun, size: Measured) -> "HostModel":
        """Return the model of the machine that a lab's run was on.

        ``wake_s`` and the costs are constants of the machine on which this was written: the run
        does not measure them apart from the figures that are compared.
        """
        fastest_s = lab.echo_s[0]
        return cls(
            cores=lab.cores,
            latency_s=lab.latency_s[0],
            waits_s=tuple((echo_s - fastest_s) / 2 for echo_s in lab.echo_s),
            ends_s=tuple(size.end_s),
        )


class _Process:
    """The jobs that wait for one host's process (or for the reader), and whether it has a core."""

    __slots__ = ("busy", "jobs", "used_s")

    def __init__(self) -> None:
        self.jobs: deque[tuple[float, Action, tuple[Any, ...]]] = deque()
        self.busy = False
        self.used_s = 0.0


class _Cores:
    """The cores that all processes share: the process that has waited longest gets the next."""

    def __init__(self, time: VirtualTime, model: HostModel, random: Random) -> None:
        self._time: Final = time
        self._model: Final = model
        self._random: Final = random
        self._ready: Final[deque[_Process]] = deque()
        self._free = model.cores

    def run(self, process: _Process, cost_s: float, action: Action, *arguments: Any) -> None:
        """Call ``action`` when the process has had a core for ``cost_s``."""
        process.jobs.append((cost_s, action, arguments))
        if not process.busy:
            process.busy = True
            self._ready.append(process)
            self._dispatch()

    def _dispatch(self) -> None:
        time = self._time
        while self._free and self._ready:
            self._free -= 1
            process = self._ready.popleft()
            at = time.now + self._model.wake_s
            wait_s = self._random.choice(self._model.waits_s)
            at += wait_s
            for _ in range(min(BATCH_MAX, len(process.jobs))):
                cost_s, action, arguments = process.jobs.popleft()
                at += cost_s
                time.schedule(at, action, *arguments)
            process.used_s += at - time.now - wait_s
            time.schedule(at, self._rest, process)

    def _rest(self, process: _Process) -> None:
        self._free += 1
        process.busy = bool(process.jobs)
        if process.busy:
            self._ready.append(process)
        self._dispatch()


class _SharedProcesses(Processes[Host]):
    """Processes whose inputs and timers wait for a core."""

    def __init__(
        self,
        time: VirtualTime,
        inputs: Inputs[Host],
        dropped: Counter[str],
        *,
        model: HostModel,
        random: Random,
    ) -> None:
        super().__init__(time, inputs, dropped)
        self.cores: Final = _Cores(time, model, random)
        self._model: Final = model
        self._of: Final[dict[int, _Process]] = {}

    def used_s(self) -> float:
        """Return the processor time that all hosts used so far."""
        return sum(process.used_s for process in self._of.values())

    def run(self, host: Host, cost_s: float, action: Action, *arguments: Any) -> None:
        """Call ``action`` when the host's process has had a core, if it is still the same one."""
        process = self._of.setdefault(host.number, _Process())
        self.cores.run(process, cost_s, self._if_alive, host, host.life, action, arguments)

    def forget_jobs(self, host: Host) -> None:
        """Drop the jobs of a process that is killed."""
        self._of.setdefault(host.number, _Process()).jobs.clear()

    @override
    def hear(self, host: Host, source: Address, data: bytes) -> None:
        if not host.running or not host.up:
            self._dropped["no agent"] += 1
        else:
            self.run(host, self._model.input_s, self._inputs.receive, host, source, data)

    @override
    def deliver(self, host: Host, action: Action, *arguments: Any, size_bytes: int = 0) -> None:
        self.run(host, self._model.tcp_s, action, *arguments)

    @override
    def wake(self, host: Host, life: int) -> None:
        self.run(host, self._model.input_s, super().wake, host, life)

    @staticmethod
    def _if_alive(host: Host, life: int, action: Action, arguments: tuple[Any, ...]) -> None:
        if host.running and host.life == life:
            action(*arguments)


class SharedMachine(KernelWorld):
    """A world whose hosts share a few cores.

    Attributes:
      reported: callbacks; each is called with (host, effect) when a host has written an effect into
        its database and reports it.
    """

    def __init__(self, seed: int, model: HostModel) -> None:
        self.model: Final = model
        self._random: Final = stream(seed, "machine")
        latency = Uniform(model.latency_s / 2, model.latency_s * 1.5)
        super().__init__(
            seed,
            link=Link(latency=latency),
            processes=partial(_SharedProcesses, model=model, random=self._random),
        )
        assert isinstance(self.processes, _SharedProcesses)
        self._shared: Final = self.processes
        self.reported: Final[list[Callable[[Host, Effect], None]]] = []
        self._reader: Final = _Process()
        self._unwritten: Final[dict[int, list[Effect]]] = {}
        self.found.append(self._note_found)

    def used_s(self) -> float:
        """Return the processor time that all hosts used so far."""
        return self._shared.used_s()

    def end_s(self) -> float:
        """Draw how long the kernel takes to end a process."""
        return self._random.choice(self.model.ends_s)

    @override
    def kill(self, host: Host) -> None:
        self._shared.forget_jobs(host)
        self._unwritten.pop(host.number, None)
        super().kill(host)

    def _note_found(self, host: Host, effect: Effect) -> None:
        waiting = self._unwritten.setdefault(host.number, [])
        if not waiting:
            self._shared.run(host, self.model.record_s, self._write, host)
        waiting.append(effect)

    def _write(self, host: Host) -> None:
        for effect in self._unwritten.pop(host.number, []):
            self._shared.cores.run(self._reader, self.model.observe_s, self._report, host, effect)

    def _report(self, host: Host, effect: Effect) -> None:
        for callback in self.reported:
            callback(host, effect)


class _Witness:
    """Which hosts have reported an event about one subject."""

    def __init__(self, world: SharedMachine) -> None:
        self._world = world
        self.news_at: dict[int, float] = {}
        self.offline_at: dict[int, float] = {}
        self._subject: Host | None = None
        world.reported.append(self._take_report)

    def begin(self, subject: Host) -> None:
        """Wait for reports of ``subject``'s holdings, and of verdicts on it."""
        self._subject = subject
        self.news_at.clear()
        self.offline_at.clear()

    def _take_report(self, host: Host, effect: Effect) -> None:
        subject = self._subject
        if subject is None:
            return
        if isinstance(effect, HoldingsChanged) and effect.owner == subject.id:
            self.news_at.setdefault(host.number, self._world.now)
        elif isinstance(effect, MemberChanged) and effect.member.node == subject.id:
            offline = effect.member.status is Status.DOWN and host is not subject
            if offline:
                self.offline_at.setdefault(host.number, self._world.now)


def simulate(hosts: int, counts: Counts, model: HostModel, *, seed: int = 1) -> Measured:
    """Do what ``lab.measure`` does, in the same order."""
    world = SharedMachine(seed, model)
    witness = _Witness(world)
    world.cluster(hosts)
    world.run(SETTLE_S)
    bytes_per_s, packets_per_s, idle_share = _idle(world, counts.idle_s)
    began_s = world.used_s()
    whole, spread = [], []
    for run in range(counts.news):
        host = world.hosts[run % hosts]
        witness.begin(host)
        began = world.now
        world.hold(host, f"news{run}")
        world.run_until(lambda: len(witness.news_at) >= hosts, within_s=WITHIN_S)
        whole.append(max(witness.news_at.values()) - began)
        spread.append(max(witness.news_at.values()) - min(witness.news_at.values()))
        world.run(BETWEEN_NEWS_S)
    news_s = (world.used_s() - began_s) / counts.news / hosts
    return Measured(
        hosts=hosts,
        idle_bytes_per_s=bytes_per_s,
        idle_packets_per_s=packets_per_s,
        news_s=whole,
        spread_s=spread,
        kill_s=_failures(world, witness, counts.kills, "kill"),
        silence_s=_failures(world, witness, counts.silences, "silence"),
        end_s=[],
        costs=Costs(idle_share, news_s),
    )


def _idle(world: SharedMachine, seconds: float) -> tuple[float, float, float]:
    world.run(TRAFFIC_SETTLE_S)
    before = [(host.traffic.bytes, host.traffic.packets) for host in world.hosts]
    used = world.used_s()
    world.run(seconds)
    after = [(host.traffic.bytes, host.traffic.packets) for host in world.hosts]
    sent = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(before, after, strict=True)]
    return (
        statistics.mean(size for size, _ in sent) / seconds,
        statistics.mean(packets for _, packets in sent) / seconds,
        (world.used_s() - used) / seconds / len(world.hosts),
    )


def _failures(world: SharedMachine, witness: _Witness, runs: int, how: str) -> list[float]:
    times = []
    others = len(world.hosts) - 1
    for run in range(runs):
        victim = world.hosts[1 + run % others]
        witness.begin(victim)
        began = world.now
        if how == "kill":
            world.run(world.end_s())
            world.kill(victim)
        else:
            rest = [host.number for host in world.hosts if host is not victim]
            world.network.partition(rest, [victim.number])
        world.run_until(lambda: len(witness.offline_at) >= others, within_s=WITHIN_S)
        times.append(max(witness.offline_at.values()) - began)
        if how == "silence":
            world.kill(victim)
            world.heal()
        world.restart(victim)
        world.run_until(world.converged, within_s=WITHIN_S)
        world.run(BETWEEN_FAILURES_S)
    return times
