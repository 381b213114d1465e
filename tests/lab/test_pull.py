"""``docker pull`` on hosts whose neighbours have what is pulled, or pull it too."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.lab.agents import Agents, await_one_state, eventually
from tests.lab.conftest import missing_for_network
from tests.lab.engines import RunningEngine, Store, missing_for_engines, start_dockerd
from tests.lab.images import MadeImage, build_image, load_image
from tests.lab.network import Lan
from tests.lab.pulling import MIRROR_PORT, Origin, PullHost, await_held, random_image, random_layers
from tests.lab.registry import missing_for_registry

pytestmark = pytest.mark.lab

STORES: Final[tuple[Store, ...]] = ("overlay2", "overlay2", "containerd")
SMALL_BYTES: Final = 20_000
"""More than the documents of an image (manifests, configs), less than any layer here."""


class Town(NamedTuple):
    """An origin, two hosts with Docker 20.10 on overlay2, and one with 26.1 on containerd's store.

    All three pull through their agents' mirrors.
    """

    lan: Lan
    origin: Origin
    old: PullHost
    other: PullHost
    new: PullHost

    @property
    def hosts(self) -> tuple[PullHost, PullHost, PullHost]:
        return (self.old, self.other, self.new)


@pytest.fixture(scope="module")
def built_town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    missing = missing_for_network() or missing_for_registry()
    for store in STORES:
        missing = missing or missing_for_engines(store)
    if missing:
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("town")
    with ExitStack() as stack:
        lan = stack.enter_context(Lan("brnlabpull", 4))
        registry, *hosts = lan.hosts
        origin = stack.enter_context(Origin(lan, registry, folder / "origin"))

        def start_engine(number: int) -> RunningEngine:
            home = folder / f"engine-{number}"
            home.mkdir()
            return stack.enter_context(
                start_dockerd(
                    home,
                    netns=hosts[number].namespace,
                    store=STORES[number],
                    extra_args=[f"--registry-mirror=http://127.0.0.1:{MIRROR_PORT}"],
                )
            )

        with ThreadPoolExecutor(len(hosts)) as threads:
            engines = list(threads.map(start_engine, range(len(hosts))))
        agents = stack.enter_context(Agents(lan))
        prepared = [
            agents.prepare(
                host,
                engine=f"docker://{engine.socket_path}",
                origin=f"docker.io=http://{origin.address}",
            )
            for host, engine in zip(hosts, engines, strict=True)
        ]
        for agent in prepared:
            agent.launch()
        for agent in prepared:
            agent.await_ready()
        await_one_state(prepared)
        pullers = [PullHost(a, e) for a, e in zip(prepared, engines, strict=True)]
        yield Town(lan, origin, *pullers)
        print("\n".join(f"--- {agent.name}\n{agent.log_end()}" for agent in prepared))


@pytest.fixture
def town(built_town: Town) -> Town:
    for host in built_town.hosts:
        host.mark()
    return built_town


def layers_of(host: PullHost, name: str) -> list[str]:
    """The layers of an image that ``host`` has whole: containerd's store lists no other."""
    layers: list[str] = host.inspect(name)["RootFS"]["Layers"]
    listed = host.docker("images", "--digests", "--format", "{{.Repository}}:{{.Tag}} {{.Digest}}")
    repository, at, digest = name.partition("@")
    rows = [line.split() for line in listed.stdout.splitlines()]
    if at:
        assert [f"{repository}:<none>", digest] in rows
    else:
        assert name in [row[0] for row in rows]
    return layers


def socket_of(host: PullHost) -> str:
    assert host.engine is not None
    return host.engine.socket_path


# --- images with no registry ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("maker", "puller"),
    [("old", "other"), ("old", "new"), ("new", "old")],
    ids=["old-other", "old-new", "new-old"],
)
def test_an_image_that_was_only_built_is_pulled_by_its_name_on_another_host(
    town: Town, maker: str, puller: str
) -> None:
    there, here = getattr(town, maker), getattr(town, puller)
    name = f"built-{maker}-{puller}:1"
    build_image(socket_of(there), name, *random_layers(name, 300_000, 200_000))
    await_held([here], name, [there])
    here.docker("pull", name)
    assert layers_of(here, name) == layers_of(there, name)
    if maker == "old" and puller == "other":
        assert here.inspect(name)["Id"] == there.inspect(name)["Id"]
    assert town.origin.blob_bytes(f"library/{name[:-2]}") == 0
    assert here.counters()["from_peers"] >= 500_000


@pytest.mark.parametrize("puller", ["other", "new"])
def test_of_a_built_image_only_the_layers_travel_that_are_missing(town: Town, puller: str) -> None:
    here = getattr(town, puller)
    whole = random_image(f"above-{puller}", 2_000_000, 150_000)
    base = MadeImage(layers=whole.layers[:1], sizes=whole.sizes[:1], labels={"is": "base"})
    load_image(socket_of(here), base, f"base-{puller}:1")
    load_image(socket_of(town.old), whole, f"above-{puller}:1")
    await_held([here], f"above-{puller}:1", [town.old])
    here.docker("pull", f"above-{puller}:1")
    assert layers_of(here, f"above-{puller}:1") == whole.diff_ids
    counters = here.counters()
    assert 150_000 <= counters["from_peers"] <= len(whole.layers[1]) + SMALL_BYTES
    assert counters["from_origin"] == 0


# --- published images ----------------------------------------------------------------------------


def test_three_hosts_that_pull_a_cold_image_at_once_draw_it_from_the_origin_once(
    town: Town,
) -> None:
    image = random_image("cold", 3_000_000, 2_000_000, 100_000)
    digest = town.origin.publish("library/cold:1", image)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda host: host.docker("pull", "cold:1"), town.hosts))
    for host in town.hosts:
        assert layers_of(host, "cold:1") == image.diff_ids
        assert host.inspect("cold:1")["RepoDigests"] == [f"cold@{digest}"]
    size = 5_100_000
    assert size <= town.origin.blob_bytes("library/cold") <= 1.02 * size


@pytest.mark.parametrize("puller", ["other", "new"])
def test_what_a_neighbour_has_pulled_is_not_asked_of_the_origin_again(
    town: Town, puller: str
) -> None:
    here = getattr(town, puller)
    image = random_image(f"later-{puller}", 1_000_000, 500_000)
    digest = town.origin.publish(f"library/later-{puller}:1", image)
    town.old.docker("pull", f"later-{puller}:1")
    before = town.origin.blob_bytes(f"library/later-{puller}")
    here.docker("pull", f"later-{puller}:1")
    assert town.origin.blob_bytes(f"library/later-{puller}") == before
    assert here.inspect(f"later-{puller}:1")["RepoDigests"] == [f"later-{puller}@{digest}"]


@pytest.mark.parametrize("puller", ["other", "new"])
@pytest.mark.parametrize("by_digest", [False, True], ids=["by tag", "by digest"])
def test_an_image_that_a_peers_engine_had_before_its_agent_is_not_drawn_from_the_origin(
    town: Town, puller: str, by_digest: bool
) -> None:
    here, repository = getattr(town, puller), f"had-{puller}-{'digest' if by_digest else 'tag'}"
    image = random_image(repository, 1_000_000, 500_000)
    digest = town.origin.publish(f"library/{repository}:1", image)
    town.old.agent.stop()
    load_image(socket_of(town.old), image, f"{repository}:1")
    town.old.agent.start()
    town.old.mark()
    await_held([here], f"{repository}:1", [town.old])
    name = f"{repository}@{digest}" if by_digest else f"{repository}:1"
    here.docker("pull", name)
    assert layers_of(here, name) == image.diff_ids
    if by_digest and puller == "new":
        # Its store keeps the compressed blobs of this digest, and no other node has them.
        assert town.origin.blob_bytes(f"library/{repository}") >= 1_500_000
        return
    assert town.origin.blob_bytes(f"library/{repository}") <= SMALL_BYTES
    assert here.counters()["from_peers"] >= 1_500_000


@pytest.mark.parametrize("puller", ["other", "new"])
def test_a_base_that_was_loaded_is_not_fetched_again_by_a_published_pull(
    town: Town, puller: str
) -> None:
    here = getattr(town, puller)
    repository = f"rebuilt-{puller}"
    whole = random_image(repository, 2_000_000, 150_000)
    base = MadeImage(layers=whole.layers[:1], sizes=whole.sizes[:1], labels={"is": "base"})
    load_image(socket_of(here), base, f"base-of-{repository}:1")
    load_image(socket_of(town.old), whole, f"{repository}:1")
    digest = town.origin.publish(f"library/{repository}:1", whole)
    await_held([here], f"{repository}:1", [town.old])
    here.docker("pull", f"{repository}:1")
    assert layers_of(here, f"{repository}:1") == whole.diff_ids
    counters = here.counters()
    assert counters["from_peers"] + counters["from_origin"] <= len(whole.layers[1]) + SMALL_BYTES
    if puller == "other":
        assert here.inspect(f"{repository}:1")["RepoDigests"] == [f"{repository}@{digest}"]


@pytest.mark.parametrize("puller", ["other", "new"])
def test_the_next_version_of_an_image_costs_the_layer_that_changed(town: Town, puller: str) -> None:
    here, repository = getattr(town, puller), f"next-{puller}"
    first = random_image(f"{repository}-1", 2_000_000, 100_000)
    second = random_image(f"{repository}-2", 100_000)
    second = MadeImage(
        layers=(first.layers[0], second.layers[0]), sizes=(first.sizes[0], second.sizes[0])
    )
    town.origin.publish(f"library/{repository}:1", first)
    here.docker("pull", f"{repository}:1")
    here.mark()
    town.origin.publish(f"library/{repository}:1", second)
    here.docker("pull", f"{repository}:1")
    assert layers_of(here, f"{repository}:1") == second.diff_ids
    counters = here.counters()
    assert counters["from_peers"] + counters["from_origin"] <= 110_000 + SMALL_BYTES


def test_layers_compressed_with_zstd_reach_an_engine_that_knows_them(town: Town) -> None:
    image = random_image("zstd", 300_000)
    town.origin.publish("library/zstd:1", image, compression="zstd")
    town.new.docker("pull", "zstd:1")
    assert layers_of(town.new, "zstd:1") == image.diff_ids


def test_of_an_index_each_engine_gets_its_platform(town: Town) -> None:
    image = random_image("many", 200_000)
    foreign = random_image("many-arm", 200_000, architecture="arm64")
    digest = town.origin.publish("library/many:1", foreign, image)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda host: host.docker("pull", "many:1"), town.hosts))
    for host in town.hosts:
        assert layers_of(host, "many:1") == image.diff_ids
        assert host.inspect("many:1")["RepoDigests"] == [f"many@{digest}"]
    assert town.origin.blob_bytes("library/many") <= 210_000


# --- the origin is away --------------------------------------------------------------------------


@pytest.mark.parametrize("puller", ["other", "new"])
def test_pulls_go_on_while_the_origin_is_stopped(town: Town, puller: str) -> None:
    here, repository = getattr(town, puller), f"away-{puller}"
    image = random_image(repository, 500_000, 100_000)
    digest = town.origin.publish(f"library/{repository}:1", image)
    town.old.docker("pull", f"{repository}:1")
    town.origin.stop()
    try:
        here.docker("pull", f"{repository}:1")
        assert layers_of(here, f"{repository}:1") == image.diff_ids
        assert here.inspect(f"{repository}:1")["RepoDigests"] == [f"{repository}@{digest}"]
        warning = here.ask(f"/v2/library/{repository}/manifests/1").headers["Warning"]
        assert "docker.io does not answer" in warning
    finally:
        town.origin.start()


# --- a pull that is given up ---------------------------------------------------------------------


def test_a_pull_that_is_cancelled_leaves_nothing_under_way(town: Town) -> None:
    town.origin.publish("library/cancelled:1", random_image("cancelled", 5_000_000))
    town.lan.shape(town.origin.host, "4mbit")
    try:
        pulling = subprocess.Popen(
            town.old.docker_command("pull", "cancelled:1"), stdout=subprocess.DEVNULL
        )
        eventually(lambda: bool(town.old.agent.get("/transfers")["transfers"]), True)
        pulling.kill()
        pulling.wait()
        eventually(lambda: town.old.agent.get("/transfers")["transfers"], [], timeout_s=30)
    finally:
        town.lan.shape(town.origin.host, "10gbit")
    town.old.docker("pull", "cancelled:1")
    assert town.old.holds("cancelled:1")


# --- other clients -------------------------------------------------------------------------------


def test_skopeo_pulls_through_the_mirror(town: Town, tmp_path: Path) -> None:
    image = random_image("clients", 400_000, 50_000)
    town.origin.publish("library/clients:1", image)
    host = town.other.host
    words = ["skopeo", "copy", "--quiet", "--src-tls-verify=false"]
    source = f"docker://127.0.0.1:{MIRROR_PORT}/library/clients:1"
    town.lan.run(host, *words, source, f"dir:{tmp_path}/copied")
    assert (tmp_path / "copied" / image.id.removeprefix("sha256:")).exists()
