"""The figures of one run, in the lab or in the simulator, and the file that keeps them."""

from pathlib import Path
from typing import Final

import msgspec

from beiran.errors import SettingsError

LAB_RUN: Final = Path(__file__).with_name("lab.json")
"""The lab's run of this release."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Number of trials of each kind, and seconds of idle time."""

    idle_s: float = 180.0
    news: int = 60
    kills: int = 30
    silences: int = 30


class Costs(msgspec.Struct, frozen=True):
    """Processor time of one agent: the share of a core when idle, and seconds for an update."""

    idle_share: float = 0.0
    news_s: float = 0.0


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Samples of a cluster of ``hosts``, in seconds.

    Attributes:
      news_s: from the change in a host's folder until all hosts report the image.
      spread_s: from the first host that reports it to the last.
      kill_s: from ``kill -9`` until all others report the host offline.
      silence_s: the same, from the moment that no packet gets from or to the host.
      end_s: from ``kill -9`` until the kernel has closed the agent's connections.
    """

    hosts: int
    idle_bytes_per_s: float
    idle_packets_per_s: float
    news_s: list[float]
    spread_s: list[float]
    kill_s: list[float]
    silence_s: list[float]
    end_s: list[float]
    costs: Costs = Costs()


class LabRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the lab: the machine, and each size.

    Attributes:
      cores: shared by all hosts.
      latency_s: of a datagram between two namespaces, the median and the 90th percentile.
      echo_s: samples of a round trip to a process that sleeps and must get a core.
    """

    commit: str
    cores: int
    latency_s: tuple[float, float]
    echo_s: list[float]
    sizes: list[Measured]

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    @classmethod
    def read(cls, path: Path) -> "LabRun":
        """Read a run. Raises: SettingsError if the file holds none."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError) as error:
            raise SettingsError(f"{path} is no run of the lab: {error}") from None
