"""Hosts on a LAN of their own: network namespaces behind a bridge, all removed afterwards.

Every host is a network namespace with one link, ``eth0``. The bridge lives in a namespace too, so
that the machine's own network is left alone, and clusters of several test runs never meet.
A program is started on a host through ``Lan.command``; unix sockets are not part of a network
namespace, so agents are spoken to as if they ran here. Needs root. (The one thing changed outside
is how many neighbours the kernel may remember.)
"""

import contextlib
import ctypes
import itertools
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeVar

NETNS_FOLDER: Final = Path("/var/run/netns")
HOSTS_MAX: Final = 1000
SMALL_NETWORK: Final = IPv4Network("10.77.0.0/24")
LARGE_NETWORK: Final = IPv4Network("10.77.0.0/22")
SMALL_NETWORK_HOSTS_MAX: Final = 250
CLONE_NEWNET: Final = 0x40000000  # sched.h

# All namespaces keep their neighbours in one table of the kernel's. A full one looks like packet
# loss, and its default (1,024) is full at 33 hosts that all know each other. It holds for the whole
# machine, other lans among it, so it is raised and stays so: that costs nothing until it is used.
NEIGHBOURS: Final = Path("/proc/sys/net/ipv4/neigh/default")
NEIGHBOURS_MAX: Final = {"gc_thresh3": 262_144, "gc_thresh2": 131_072, "gc_thresh1": 65_536}

_serial: Final = itertools.count()
_libc: Final = ctypes.CDLL(None, use_errno=True)
SEGMENTS_BYTES: Final = 16 * 1448
"""Bytes that TCP hands to a shaped link at once: 4 ms of 50 Mbit/s."""

_T = TypeVar("_T")


class Counters(NamedTuple):
    """The traffic that a host has sent on its link since its creation, with Ethernet and ARP."""

    bytes: int
    packets: int

    def __sub__(self, earlier: "Counters") -> "Counters":
        return Counters(self.bytes - earlier.bytes, self.packets - earlier.packets)


class Host(NamedTuple):
    """One host of a ``Lan``."""

    name: str
    """``h0``, ``h1``, …"""
    namespace: str
    address: str


class Lan:
    """Hosts that reach each other, broadcast included, and nothing else.

    Args:
      prefix: begins the names of the namespaces, a word of the caller's own.
      hosts: how many; at most ``HOSTS_MAX``.

    Use it in a ``with`` block; leaving it ends whatever still runs on the hosts and removes them.
    Raises: subprocess.CalledProcessError where ``ip`` refuses (no root, say).
    """

    def __init__(self, prefix: str, hosts: int) -> None:
        if not 1 <= hosts <= HOSTS_MAX:
            raise ValueError(f"a lan has 1 to {HOSTS_MAX} hosts, not {hosts}")
        self._prefix = prefix
        self._stem = f"{prefix}-{os.getpid()}-{next(_serial)}"
        self._switch = f"{self._stem}-switch"
        self.network = SMALL_NETWORK if hosts <= SMALL_NETWORK_HOSTS_MAX else LARGE_NETWORK
        addresses = self.network.hosts()
        self.hosts = tuple(
            Host(f"h{index}", f"{self._stem}-h{index}", str(next(addresses)))
            for index in range(hosts)
        )
        self._index = {host: index for index, host in enumerate(self.hosts)}
        self._bridges = 1

    def __enter__(self) -> Self:
        remove_leftovers(self._prefix)
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _build(self) -> None:
        _raise_neighbour_limits()
        names = [self._switch, *(host.namespace for host in self.hosts)]
        _ip_batch(f"netns add {name}" for name in names)
        for name in names:
            # Neighbour discovery and router solicitations would be counted as the agents' traffic.
            _in_namespace(name, _disable_ipv6)
        _ip_batch(
            [
                "link set lo up",
                "link add br0 type bridge forward_delay 0 mcast_snooping 0",
                "link set br0 up",
            ],
            namespace=self._switch,
        )
        _ip_batch(
            f"link add p{index} netns {self._switch} type veth "
            f"peer name eth0 netns {host.namespace}"
            for index, host in enumerate(self.hosts)
        )
        _ip_batch(
            itertools.chain.from_iterable(
                (f"link set p{index} master br0", f"link set p{index} up")
                for index in range(len(self.hosts))
            ),
            namespace=self._switch,
        )
        gateway = self.network.broadcast_address - 1
        for host in self.hosts:
            address = f"{host.address}/{self.network.prefixlen}"
            _ip_batch(
                [
                    "link set lo up",
                    f"address add {address} broadcast + dev eth0",
                    "link set eth0 up",
                    # Real hosts have a default route. No host has this gateway's address.
                    f"route add default via {gateway} dev eth0",
                ],
                namespace=host.namespace,
            )

    def close(self) -> None:
        """End what still runs on the hosts and remove them. Safe to call twice."""
        _remove([name for name in _namespaces() if name.startswith(f"{self._stem}-")])

    def command(self, host: Host, *words: str) -> list[str]:
        """A command line that runs ``words`` on ``host``; the process itself becomes the program.

        ``nsenter`` and not ``ip netns exec``, which would hide the cgroups from a dockerd.
        """
        return ["nsenter", f"--net={NETNS_FOLDER / host.namespace}", *words]

    def run(self, host: Host, *words: str) -> str:
        """Run a short program on ``host`` and return what it printed."""
        return subprocess.run(
            self.command(host, *words), check=True, capture_output=True, text=True, timeout=60
        ).stdout

    def socket(self, host: Host, kind: socket.SocketKind) -> socket.socket:
        """A new IPv4 socket that sends and hears on ``host``, though this process is elsewhere."""
        return _in_namespace(host.namespace, lambda: socket.socket(socket.AF_INET, kind))

    def drop(self, host: Host, probability: float) -> None:
        """Lose each packet that reaches ``host`` with this probability; 0 loses none.

        Done on every host of a LAN, every packet on it is lost with that probability, once.
        """
        rules = [f"-A INPUT ! -i lo -m statistic --mode random --probability {probability} -j DROP"]
        self._filter(host, rules if probability > 0 else [])

    def silence(self, host: Host) -> None:
        """Drop every IP packet from and to ``host``; its link stays up, and ARP is answered."""
        self._filter(host, ["-A INPUT ! -i lo -j DROP", "-A OUTPUT ! -o lo -j DROP"])

    def hear_again(self, host: Host) -> None:
        """End what ``drop`` or ``silence`` did to ``host``."""
        self._filter(host, [])

    def _filter(self, host: Host, rules: Sequence[str]) -> None:
        table = "\n".join(
            [
                "*filter",
                ":INPUT ACCEPT [0:0]",
                ":FORWARD ACCEPT [0:0]",
                ":OUTPUT ACCEPT [0:0]",
                *rules,
                "COMMIT",
                "",
            ]
        )
        self._iptables(host, "iptables-restore", "--wait", text=table)

    def unplug(self, host: Host) -> None:
        """Pull the cable of ``host`` out of the switch; its own link stays up."""
        _ip_batch([f"link set p{self._index[host]} nomaster"], namespace=self._switch)

    def partition(self, groups: Sequence[Iterable[Host]]) -> None:
        """Split the LAN at once: hosts reach the hosts of their own group only.

        Each group is a bridge of its own; hosts that no group names stay where they are.
        """
        new = [
            f"link add br{number} type bridge forward_delay 0 mcast_snooping 0"
            for number in range(self._bridges, len(groups))
        ]
        new += [f"link set br{number} up" for number in range(self._bridges, len(groups))]
        _ip_batch(new, namespace=self._switch)
        self._bridges = max(self._bridges, len(groups))
        _ip_batch(
            (
                f"link set p{self._index[host]} master br{number}"
                for number, group in enumerate(groups)
                for host in group
            ),
            namespace=self._switch,
        )

    def heal(self) -> None:
        """Plug every host into one switch again, after ``partition`` or ``unplug``."""
        _ip_batch(
            (f"link set p{index} master br0" for index in range(len(self.hosts))),
            namespace=self._switch,
        )

    def shape(self, host: Host, rate: str) -> None:
        """Limit the link of ``host``, each way, to ``rate`` as tc writes it (``100mbit``).

        TCP hands a device of this kind 64 KiB at a time, and a full queue loses them all at once:
        several times what a real link of that rate is given, and loses. So that is limited, too.
        """
        bucket = ("root", "tbf", "rate", rate, "burst", "128kb", "latency", "50ms")
        port = f"p{self._index[host]}"
        _run("tc", "-n", host.namespace, "qdisc", "replace", "dev", "eth0", *bucket)
        _run("tc", "-n", self._switch, "qdisc", "replace", "dev", port, *bucket)
        for namespace, device in ((host.namespace, "eth0"), (self._switch, port)):
            _ip_batch([f"link set {device} gso_max_size {SEGMENTS_BYTES}"], namespace=namespace)

    def counters(self) -> Mapping[Host, Counters]:
        """The traffic that each host has sent so far, counted at its switch port."""
        return _in_namespace(self._switch, self._read_counters)

    def _read_counters(self) -> dict[Host, Counters]:
        # /proc/net is the namespace of the thread that asks, where /sys is that of its mount.
        received: dict[str, Counters] = {}
        for line in Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]:
            name, _, numbers = line.partition(":")
            fields = numbers.split()
            received[name.strip()] = Counters(bytes=int(fields[0]), packets=int(fields[1]))
        return {host: received[f"p{index}"] for host, index in self._index.items()}

    def count_from(self, host: Host, *ports: int) -> None:
        """Count from now on what reaches ``host`` from these TCP ports, wherever they are."""
        rules = "".join(f"-A INPUT ! -i lo -p tcp --sport {port}\n" for port in ports)
        self._iptables(host, "iptables-restore", "--wait", text=f"*mangle\n{rules}COMMIT\n")

    def counted_from(self, host: Host) -> Mapping[int, Counters]:
        """Bytes received from each port of ``count_from``, with IP and TCP headers."""
        shown = self._iptables(host, "iptables-save", "--counters", "--table", "mangle")
        rule = re.compile(r"\[(\d+):(\d+)\] -A INPUT .*--sport (\d+)")
        return {
            int(port): Counters(bytes=int(count), packets=int(packets))
            for packets, count, port in rule.findall(shown)
        }

    def _iptables(self, host: Host, *words: str, text: str = "") -> str:
        return subprocess.run(
            self.command(host, *words),
            check=True,
            input=text,
            text=True,
            capture_output=True,
            timeout=60,
        ).stdout


def _raise_neighbour_limits() -> None:
    for name, least in NEIGHBOURS_MAX.items():
        with contextlib.suppress(OSError):  # not to be seen from within another namespace
            if int((NEIGHBOURS / name).read_text()) < least:
                (NEIGHBOURS / name).write_text(str(least))


def remove_leftovers(prefix: str) -> None:
    """Remove the namespaces of runs with this prefix whose process is gone."""
    pattern = re.compile(rf"{re.escape(prefix)}-(\d+)-\d+-(?:switch|h\d+)")
    leftovers = []
    for name in _namespaces():
        found = pattern.fullmatch(name)
        if found and not Path(f"/proc/{found[1]}").exists():
            leftovers.append(name)
    _remove(leftovers)


def _namespaces() -> list[str]:
    return sorted(os.listdir(NETNS_FOLDER)) if NETNS_FOLDER.exists() else []


def _remove(names: Sequence[str]) -> None:
    """End every process inside these namespaces, which are ours, and delete them."""
    if not names:
        return
    _kill_processes_in(names)
    with contextlib.suppress(subprocess.CalledProcessError):
        _ip_batch((f"netns delete {name}" for name in names), keep_going=True)


def _kill_processes_in(names: Sequence[str]) -> None:
    inodes = {os.stat(NETNS_FOLDER / name).st_ino for name in names}
    deadline = time.monotonic() + 10
    while pids := list(_processes_in(inodes)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {pids} in {names[0]} and others do not end")
        time.sleep(0.02)  # a killed process gives no event to those who are not its parent


def _processes_in(inodes: set[int]) -> Iterator[int]:
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # gone meanwhile, or a zombie without namespaces
            if os.stat(f"/proc/{entry.name}/ns/net").st_ino in inodes:
                yield int(entry.name)


def _in_namespace(name: str, function: Callable[[], _T]) -> _T:
    """Call ``function`` in a thread of its own that has entered the network namespace."""
    results: list[_T] = []
    errors: list[BaseException] = []

    def enter_and_call() -> None:
        try:
            with open(NETNS_FOLDER / name, "rb") as namespace:
                if _libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"setns into {name}")
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=enter_and_call)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _disable_ipv6() -> None:
    for scope in ("all", "default"):
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1")


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True, timeout=60)


def _ip_batch(
    commands: Iterable[str], *, namespace: str | None = None, keep_going: bool = False
) -> None:
    text = "".join(f"{command}\n" for command in commands)
    if not text:
        return
    words = ["ip"]
    if namespace is not None:
        words += ["-netns", namespace]
    if keep_going:
        words.append("-force")
    words += ["-batch", "-"]
    subprocess.run(words, check=True, input=text, capture_output=True, text=True, timeout=60)
