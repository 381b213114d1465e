"""Processes: when a host's core gets its inputs, and when its timers run.

``Processes`` does for a simulated host what the scheduler of an operating system and the driver
loop of the agent (``beiran/agent/gossip_driver.py``) do for a real one. A workload feeds cores
only through it, so that a stopped, blocked or slow process behaves as one.
"""

import math
from collections import Counter
from typing import Any, Final, Generic, Protocol, TypeVar

from beiran.gossip.membership.member import Address
from simulations.kernel.host import H, Host
from simulations.kernel.time import Action, VirtualTime

RECEIVE_BUFFER_BYTES: Final = 4 * 1024 * 1024  # as beiran/net/udp.py asks for

HostIn = TypeVar("HostIn", bound=Host, contravariant=True)


class Inputs(Protocol[HostIn]):
    """A workload: it feeds an input to a host's core, and acts on the effects."""

    def receive(self, host: HostIn, source: Address, data: bytes) -> None:
        """A datagram has arrived."""
        ...

    def refused(self, host: HostIn, address: Address) -> None:
        """ICMP says that no process listens at ``address``."""
        ...

    def advance(self, host: HostIn, now: float) -> None:
        """Timers are due at the local time ``now``."""
        ...

    def act_on_outbox(self, host: HostIn) -> None:
        """Act on the effects that a block held back."""
        ...


class MakeProcesses(Protocol[H]):
    """Makes the part of a world that delivers inputs; ``Processes`` itself is one."""

    def __call__(
        self, time: VirtualTime, inputs: Inputs[H], dropped: Counter[str]
    ) -> "Processes[H]":
        """Make it."""
        ...


class Processes(Generic[H]):
    """Delivers inputs and timers to the processes of all hosts.

    Args:
      dropped: counter of datagrams that no process got, by reason.
    """

    def __init__(self, time: VirtualTime, inputs: Inputs[H], dropped: Counter[str]) -> None:
        self._time: Final = time
        self._inputs: Final = inputs
        self._dropped: Final = dropped

    # --- inputs -----------------------------------------------------------------------------

    def hear(self, host: H, source: Address, data: bytes) -> None:
        """A datagram is at the host's network interface."""
        if not host.running or not host.up:
            self._dropped["no agent"] += 1
        elif host.hampered:
            size_bytes = len(data)
            self.deliver(host, self._inputs.receive, host, source, data, size_bytes=size_bytes)
        else:
            self._inputs.receive(host, source, data)

    def deliver(self, host: H, action: Action, *arguments: Any, size_bytes: int = 0) -> None:
        """Call ``action``, an input of the process, as soon as the process takes inputs."""
        if not host.hampered:
            action(*arguments)
            return
        if host.inbox_bytes + size_bytes > RECEIVE_BUFFER_BYTES:
            self._dropped["receive buffer full"] += 1
            return
        host.inbox.append((size_bytes, action, arguments))
        host.inbox_bytes += size_bytes
        held = host.stopped_until is not None or host.blocked_until is not None
        if len(host.inbox) == 1 and not held:
            at = max(self._time.now, host.busy_until)
            self._time.schedule(at, self._work, host, host.life)

    def _work(self, host: H, life: int) -> None:
        """Take the inputs that wait: one after the other if each costs time, else all at once."""
        held = host.stopped_until is not None or host.blocked_until is not None
        if host.life != life or not host.running or held or not host.inbox:
            return
        now = self._time.now
        if now < host.busy_until:
            self._time.schedule(host.busy_until, self._work, host, life)
            return
        while host.inbox and host.running and host.life == life:
            size_bytes, action, arguments = host.inbox.popleft()
            host.inbox_bytes -= size_bytes
            action(*arguments)
            if host.cost_s:
                host.busy_until = now + host.cost_s
                self._time.schedule(host.busy_until, self._work, host, life)
                break
        host.note_hampered()

    # --- states -----------------------------------------------------------------------------

    def stop(self, host: H, seconds: float) -> None:
        """SIGSTOP, and SIGCONT ``seconds`` later: nothing runs, and inputs wait."""
        now = self._time.now
        host.stopped_until = max(now + seconds, host.stopped_until or 0.0)
        host.note_hampered()
        self._time.schedule(now + seconds, self._resume, host, host.life)

    def block(self, host: H, seconds: float) -> None:
        """Hold back all that the process receives and sends; its timers run.

        Lifeguard's experiments block immediately before sending and after receiving (§V).
        """
        now = self._time.now
        host.blocked_until = max(now + seconds, host.blocked_until or 0.0)
        host.note_hampered()
        self._time.schedule(now + seconds, self._unblock, host, host.life)

    def slow(self, host: H, cost_s: float) -> None:
        """Let each input take the process this long; 0 ends it."""
        host.cost_s = cost_s
        host.note_hampered()

    def end(self, host: H) -> None:
        """End the process; its inputs and effects are lost."""
        host.running = False
        host.stopped_until = host.blocked_until = None
        host.inbox.clear()
        host.inbox_bytes = 0
        host.outbox.clear()
        host.busy_until = 0.0
        host.wakes_at = math.inf
        host.note_hampered()

    def _resume(self, host: H, life: int) -> None:
        until = host.stopped_until
        if host.life != life or not host.running or until is None or until > self._time.now:
            return
        host.stopped_until = None
        self._work(host, life)
        host.note_hampered()
        self.wake(host, life)  # datagrams are read before timers run, as in the agent's driver

    def _unblock(self, host: H, life: int) -> None:
        until = host.blocked_until
        if host.life != life or not host.running or until is None or until > self._time.now:
            return
        host.blocked_until = None
        self._inputs.act_on_outbox(host)
        self._work(host, life)
        host.note_hampered()

    # --- timers -----------------------------------------------------------------------------

    def plan(self, host: H) -> None:
        """Schedule a wake-up for the core's next timer, unless an earlier one is planned."""
        deadline = host.node.next_deadline()
        if deadline is None or not host.running:
            host.wakes_at = math.inf
            return
        at = host.clock.virtual(deadline)
        if at < host.wakes_at:
            host.wakes_at = max(at, self._time.now)
            self._time.schedule(at, self.wake, host, host.life)

    def plan_anew(self, host: H) -> None:
        """The same after the host's clock has changed."""
        host.wakes_at = math.inf
        self.plan(host)

    def wake(self, host: H, life: int) -> None:
        """Run the timers that are due."""
        if host.life != life or not host.running or host.stopped_until is not None:
            return
        now = self._time.now
        if now < host.busy_until and host.cost_s:
            self._time.schedule(host.busy_until, self.wake, host, life)
            return
        if now >= host.wakes_at:
            host.wakes_at = math.inf
        deadline = host.node.next_deadline()
        if deadline is None:
            return
        if host.clock.virtual(deadline) <= now:
            # virtual() is rounded: the core must not be woken before its own deadline
            self._inputs.advance(host, max(host.clock.local(now), deadline))
        else:
            self.plan(host)
