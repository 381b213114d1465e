"""Pulls of what peers have already: wide, light on memory, and nothing from the origin."""

import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.published import MEGABYTE, Published, random_image, random_tar, usual_layers
from benchmarks.pull_lab import PullLab, Together, last_s
from benchmarks.pull_report import PullReport
from tests.lab.agents import RunningAgent
from tests.lab.network import Host

UPLINK_MBIT: Final = 50.0
WIDE_PEERS: Final = 4
MEMORY_PEERS: Final = 8
TAG_PULLS: Final = 20
MANIFEST_AND_TAG_BYTES: Final = 20_000
"""The most bytes that may come from the origin while no blob does."""
LARGE_LAYER_SHARE: Final = 4
"""One peer's rate is measured with a layer of a fourth of the size."""


def wide(report: PullReport, *, megabytes: int) -> None:
    """One large layer from four peers with shaped uplinks, and one from one of them."""
    large = random_image("large", [megabytes * MEGABYTE], gzipped=False)
    small = random_image("small", [megabytes * MEGABYTE // LARGE_LAYER_SHARE], gzipped=False)
    with PullLab(WIDE_PEERS + 1) as lab:
        lab.publish(large, small)
        seeds = [_seed(lab, host, [large]) for host in lab.hosts[: WIDE_PEERS - 1]]
        seeds.append(_seed(lab, lab.hosts[WIDE_PEERS - 1], [large, small]))
        puller = lab.start_agents(lab.hosts[-1:])[0]
        lab.shape(UPLINK_MBIT, [seed.host for seed in seeds])
        rates = []
        for image in (small, large):
            took = last_s(
                Together({"it": partial(lab.agent_pull, puller, image.reference)}).results()
            )
            rates.append(image.size_bytes / 1e6 / took)
        report.record("wide.one", rates[0])
        report.record("wide.four", rates[1])
        report.record("wide.ratio", rates[1] / rates[0])


def memory(report: PullReport, *, megabytes: int) -> None:
    """One agent gives a large image to eight; links as fast as the machine."""
    image = random_image("large", usual_layers(megabytes), gzipped=False)
    with PullLab(MEMORY_PEERS + 1) as lab:
        lab.publish(image)
        _seed(lab, lab.hosts[0], [image])
        pullers = lab.start_agents(lab.hosts[1:])
        pulls = {a.name: partial(lab.agent_pull, a, image.reference) for a in pullers}
        last_s(Together(pulls).results())
        report.record("memory", max(_most_memory_mb(agent) for agent in lab.agents))


def _seed(lab: PullLab, host: Host, images: list[Published]) -> RunningAgent:
    """An agent whose layout folder holds these."""
    agent = lab.prepare_agent(host)
    assert agent.layout is not None
    images[0].write_layout(agent.layout, *images[1:])
    agent.start()
    return agent


def _most_memory_mb(agent: RunningAgent) -> float:
    status = Path(f"/proc/{agent.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def held(report: PullReport, *, megabytes: int) -> None:
    """An image that was loaded into two engines before their agents started; a third pulls it."""
    image = random_image("held", usual_layers(megabytes))
    with PullLab(3) as lab:
        lab.publish(image)
        lab.start_engines(lab.hosts)
        for host in lab.hosts[:2]:
            _load(lab, host, image)
        agents = lab.start_agents(lab.hosts)
        disk_before = [_disk_bytes(agent.folder) for agent in agents[:2]]
        before = lab.link_bytes()[lab.origin]
        lab.docker_pull(lab.hosts[2], image.reference)
        sent = lab.link_bytes()[lab.origin] - before
        counted = agents[2].get("/info")["counters"]["blob_bytes_from_origin"]
        print(f"  the origin's link sent {sent} bytes (what its tag means, and ARP)")
        report.record("held.origin", counted + max(0, sent - MANIFEST_AND_TAG_BYTES))
        more = [
            _disk_bytes(agent.folder) - was
            for agent, was in zip(agents[:2], disk_before, strict=True)
        ]
        report.record("held.disk", 100 * max(more) / image.size_bytes)


def tags(report: PullReport, *, pulls: int = TAG_PULLS) -> None:
    """Tag pulls of what a peer has, with the origin and without it."""
    images = [random_image(f"tag{number}", [2 * MEGABYTE]) for number in range(2 * pulls)]
    with PullLab(2) as lab:
        lab.publish(*images)
        lab.start_engines(lab.hosts)
        lab.start_agents(lab.hosts)
        giver, taker = lab.hosts
        for image in images:
            lab.docker_pull(giver, image.reference)
        time.sleep(2)
        with_origin = [_timed(partial(lab.docker_pull, taker, i.reference)) for i in images[:pulls]]
        lab.stop_registry()
        failed, without = 0, []
        for image in images[pulls:]:
            try:
                without.append(_timed(partial(lab.docker_pull, taker, image.reference)))
            except RuntimeError as error:
                print(f"  {error}")
                failed += 1
        median = statistics.median(with_origin)
        print(
            f"  with the origin: median {median:.2f} s, worst {max(with_origin):.2f}; "
            f"stopped: median {statistics.median(without):.2f}, worst {max(without):.2f}"
        )
        report.record("tags.failed", failed)
        report.record("tags.slower", max(without) - median)


def rebuilt(report: PullReport, *, megabytes: int) -> None:
    """Its base is everywhere; the one changed layer is at a peer."""
    base = [random_tar(size, f"base-{size}") for size in usual_layers(megabytes)[:-1]]
    first = Published("app", [*base, random_tar(2 * MEGABYTE, "first")])
    second = Published("again", [*base, random_tar(2 * MEGABYTE, "second")])
    with PullLab(3) as lab:
        lab.publish(first, second)
        lab.start_engines(lab.hosts)
        lab.start_agents(lab.hosts)
        for host in lab.hosts:
            lab.docker_pull(host, first.reference)
        lab.docker_pull(lab.hosts[0], second.reference)
        time.sleep(2)
        before = sum(lab.link_bytes().values())
        lab.docker_pull(lab.hosts[2], second.reference)
        moved = sum(lab.link_bytes().values()) - before
        report.record("rebuilt", moved / second.blob_sizes[-1])


def _timed(pull: Callable[[], object]) -> float:
    began = time.monotonic()
    pull()
    return time.monotonic() - began


def _load(lab: PullLab, host: Host, image: Published) -> None:
    archive = lab.folder / "archive.tar"
    image.write_archive(archive)
    lab.docker(host, "load", "--quiet", "--input", str(archive))
    archive.unlink()


def _disk_bytes(folder: Path) -> int:
    """The disk space that a folder takes."""
    done = subprocess.run(
        ["du", "--summarize", "--block-size=1", str(folder)], check=True, capture_output=True
    )
    return int(done.stdout.split()[0])
