"""The world of one run: virtual time, machines, a network between them, and faults on both.

A workload subclasses ``World`` with what a host runs (``simulations.gossip.world``,
``simulations.swarm.world``). Virtual time, process states, datagrams and the rules of the network
are the same for all workloads:

- ``time``, ``network``, ``machines``, ``processes`` and ``datagrams`` are the parts.
- ``stop``, ``block``, ``slow``, ``drift`` and ``step_clock`` are faults of a host; ``partition``
  and ``heal`` and the methods of ``network`` are faults of the network.
- ``happened`` and ``network.changed`` announce faults, ``trace`` takes one line for each thing that
  happens.
- Everything depends on the seed, nothing on the hash seed: the same calls give the same trace.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic

from beiran.gossip.membership.member import Address
from simulations.kernel.datagrams import Datagrams
from simulations.kernel.happenings import Blocked, Happening, Slowed, Stopped
from simulations.kernel.host import H, Machines
from simulations.kernel.links import Link
from simulations.kernel.network import Network
from simulations.kernel.processes import MakeProcesses, Processes
from simulations.kernel.time import Action, VirtualTime


class NotReached(AssertionError):
    """A condition was not met within its time."""


class World(ABC, Generic[H]):
    """One run.

    Args:
      seed: decides every random choice.
      link: between any two hosts.
      icmp: whether a machine without an agent refuses datagrams.
      starts_at: virtual time at which the world begins, in seconds.
      processes: makes the part that delivers inputs; ``simulations.fidelity`` has its own.

    Attributes:
      dropped: datagrams that no process got, by reason.
      happened: callbacks; each is called with every fault of a host, before its effect.
      trace: called with one line for each thing that happens, if set.
    """

    def __init__(
        self,
        seed: int,
        *,
        link: Link,
        icmp: bool = False,
        starts_at: float = 0.0,
        processes: MakeProcesses[H] = Processes,
    ) -> None:
        self.seed: Final = seed
        self.time: Final = VirtualTime(starts_at)
        self.network: Final = Network(link)
        self.machines: Final[Machines[H]] = Machines()
        self.dropped: Final[Counter[str]] = Counter()
        self.happened: Final[list[Callable[[H, Happening], None]]] = []
        self.trace: Callable[[str], None] | None = None
        self.processes: Final = processes(self.time, self, self.dropped)
        self.datagrams: Final = Datagrams(
            self.time,
            self.network,
            self.machines,
            self.processes,
            self,
            self.dropped,
            icmp=icmp,
        )

    # --- a workload implements these --------------------------------------------------------

    @abstractmethod
    def do(self, host: H, effects: list[Any]) -> None:
        """Act on the effects of one input of a host's core, and plan its next wake-up."""

    @abstractmethod
    def act(self, host: H, effect: Any) -> None:
        """Act on an effect that a block may have held back."""

    @abstractmethod
    def differences(self) -> str:
        """Describe the state for people, when a condition is not met in time."""

    # --- inputs, as ``processes`` and ``datagrams`` deliver them -----------------------------

    def receive(self, host: H, source: Address, data: bytes) -> None:
        """Feed a datagram to the host's core."""
        now = host.clock.local(self.time.now)
        self.do(host, host.node.receive_datagram(data, source, now=now))

    def refused(self, host: H, address: Address) -> None:
        """Feed ICMP's "port unreachable" to the host's core; a core that ignores it needs none."""

    def advance(self, host: H, now: float) -> None:
        """Run the timers of the host's core that are due at its local time ``now``."""
        self.do(host, host.node.advance(now=now))

    def act_on_outbox(self, host: H) -> None:
        """Act on the effects that a block held back."""
        outbox, host.outbox = host.outbox, []
        for effect in outbox:
            self.act(host, effect)

    # --- time -------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Virtual time in seconds."""
        return self.time.now

    @property
    def steps(self) -> int:
        """Events handled so far."""
        return self.time.steps

    def schedule(self, at: float, action: Action, *arguments: Any) -> None:
        """Call ``action(*arguments)`` at the virtual time ``at``."""
        self.time.schedule(at, action, *arguments)

    def every(self, interval_s: float, action: Callable[[], None]) -> None:
        """Call ``action`` now and every ``interval_s`` seconds."""
        self.time.every(interval_s, action)

    def run(self, seconds: float) -> None:
        """Let ``seconds`` of virtual time pass. Raises: Storm if events cause events endlessly."""
        self.time.run(seconds, hosts=len(self.hosts))

    def run_until(
        self, condition: Callable[[], bool], *, within_s: float, every_s: float = 0.0
    ) -> float:
        """Run until ``condition`` is met.

        Args:
          every_s: how often the condition is evaluated; 0 is after every event.

        Returns: the seconds that this took.
        Raises: NotReached, with ``differences``, if it takes longer than ``within_s``.
        """
        start = self.now
        while not condition():
            if self.now - start > within_s:
                raise NotReached(f"not within {within_s} s:\n{self.differences()}")
            if every_s:
                self.run(every_s)
            elif not self.time.step():
                raise NotReached(f"nothing is left to happen:\n{self.differences()}")
        return self.now - start

    # --- hosts ------------------------------------------------------------------------------

    @property
    def hosts(self) -> list[H]:
        """All machines, by number. A machine stays when its process ends."""
        return self.machines.hosts

    def host(self, number: int) -> H | None:
        """Return the host with this number, if there is one."""
        return self.hosts[number] if 0 <= number < len(self.hosts) else None

    def online(self) -> list[H]:
        """Return the machines that are on and have an agent (perhaps a stopped one)."""
        return [host for host in self.hosts if host.running and host.up]

    # --- faults -----------------------------------------------------------------------------

    def stop(self, host: H, seconds: float) -> None:
        """SIGSTOP, and SIGCONT ``seconds`` later: nothing runs, and inputs wait."""
        if host.running:
            self.announce(host, Stopped(seconds))
            self.processes.stop(host, seconds)

    def block(self, host: H, seconds: float) -> None:
        """Hold back all that the process receives and sends; its timers run."""
        if host.running:
            self.announce(host, Blocked(seconds))
            self.processes.block(host, seconds)

    def slow(self, host: H, cost_s: float) -> None:
        """Let each input take the process ``cost_s`` from now on; 0 ends it."""
        if cost_s != host.cost_s:
            self.announce(host, Slowed(cost_s))
        self.processes.slow(host, cost_s)

    def drift(self, host: H, rate: float) -> None:
        """Let the monotonic clock count ``rate`` seconds in one from now on."""
        host.clock.drift(rate, self.now)
        self.processes.plan_anew(host)

    def step_clock(self, host: H, by_s: float) -> None:
        """Set the wall clock; the next process on the host reads it."""
        host.clock.wall_error_s += by_s

    def partition(self, *groups: Sequence[H]) -> None:
        """Split the network into these groups; a host in no group is with the first."""
        self.network.partition(*([host.number for host in group] for group in groups))

    def heal(self) -> None:
        """Undo all partitions and cuts."""
        self.network.heal()

    # --- the trace --------------------------------------------------------------------------

    def announce(self, host: H, happening: Happening) -> None:
        """Trace a fault of a host and call ``happened``, before the fault has its effect."""
        self.note(host, str(happening))
        for callback in self.happened:
            callback(host, happening)

    def note(self, host: H, text: str) -> None:
        """Write a line into the trace, if there is one."""
        if self.trace is not None:
            self.trace(f"{self.now:.9f} h{host.number} {text}")
