"""containerd without Docker, set up as the guide says: ``hosts.toml``; it asks with ``?ns=``.

Its host's agent has no engine: it only gives, from its cache, what containerd has pulled.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.lab.agents import Agents, await_one_state, eventually
from tests.lab.conftest import missing_for_network
from tests.lab.containerd import Containerd, missing_for_containerd, start_containerd
from tests.lab.engines import missing_for_engines, start_dockerd
from tests.lab.images import build_image
from tests.lab.network import Lan
from tests.lab.pulling import Origin, PullHost, await_held, random_image, random_layers
from tests.lab.registry import missing_for_registry

pytestmark = pytest.mark.lab

GUIDE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "docker-pull.md"
SMALL_BYTES: Final = 20_000
"""More than the documents of an image (manifests, configs), less than any layer here."""


class Place(NamedTuple):
    """An origin, by two names; a host with Docker, and one with containerd, an agent on each.

    Attributes:
      elsewhere: the origin as a registry of its own, by its address.
      docker: on overlay2, so that it has no compressed blobs of what it built.
    """

    lan: Lan
    origin: Origin
    elsewhere: str
    docker: PullHost
    other: PullHost
    containerd: Containerd


def guides_hosts_toml() -> str:
    """The content of ``_default/hosts.toml`` in the guide."""
    pattern = r"_default/hosts\.toml`[^`]*```toml\n(.*?)```"
    (text,) = re.findall(pattern, GUIDE.read_text(), re.DOTALL)
    return str(text)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    missing = missing_for_network() or missing_for_registry() or missing_for_engines()
    if missing := missing or missing_for_containerd():
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("containerd")
    with ExitStack() as stack:
        lan = stack.enter_context(Lan("brnlabctrd", 3))
        registry, with_docker, with_containerd = lan.hosts
        origin = stack.enter_context(Origin(lan, registry, folder / "origin"))
        engine = stack.enter_context(start_dockerd(folder, netns=with_docker.namespace))
        containerd = stack.enter_context(start_containerd(lan, with_containerd))
        containerd.set_hosts("_default", guides_hosts_toml())
        agents = stack.enter_context(Agents(lan))
        origins = f"docker.io=http://{origin.address},{origin.address}=http://{origin.address}"
        started = [
            agents.start(host, engine=at, environ={"BEIRAN_ORIGIN": origins})
            for host, at in (
                (with_docker, f"docker://{engine.socket_path}"),
                (with_containerd, "none"),
            )
        ]
        await_one_state(started)
        yield Place(
            lan,
            origin,
            origin.address,
            PullHost(started[0], engine),
            PullHost(started[1]),
            containerd,
        )
        agents.print_logs()


@pytest.fixture
def place(running: Place) -> Place:
    running.docker.mark()
    running.other.mark()
    return running


def await_asked_again(host: PullHost, repository: str) -> None:
    """Wait until an agent has found out that the origin is back."""
    path = f"/v2/{repository}/manifests/1"
    eventually(lambda: host.ask(path).headers["Beiran-Source"], "origin")


@pytest.mark.parametrize("repository", ["library/published", "team/published"])
@pytest.mark.parametrize("registry", ["docker.io", "elsewhere"])
def test_an_image_of_any_registry_comes_through_the_mirror(
    place: Place, registry: str, repository: str
) -> None:
    registry = place.elsewhere if registry == "elsewhere" else registry
    image = random_image(f"{registry}/{repository}", 300_000, 50_000)
    digest = place.origin.publish(f"{repository}:1", image)
    name = f"{registry}/{repository}:1"
    place.containerd.pull(name)
    assert place.containerd.digest(name) == digest
    assert place.containerd.diff_ids(name) == image.diff_ids
    assert place.containerd.is_whole(name)
    assert place.other.counters()["from_origin"] >= 350_000
    clients = {asked.client for asked in place.origin.asked()}
    assert clients <= {place.docker.host.address, place.other.host.address}


def test_an_image_that_only_a_docker_host_built_comes_from_there(place: Place) -> None:
    assert place.docker.engine is not None
    layers = random_layers("built", 300_000, 200_000)
    build_image(place.docker.engine.socket_path, "built:1", *layers)
    await_held([place.other], "built:1", [place.docker])
    name = "docker.io/library/built:1"
    place.containerd.pull(name)
    assert place.containerd.is_whole(name)
    assert place.containerd.diff_ids(name) == place.docker.inspect("built:1")["RootFS"]["Layers"]
    assert place.origin.blob_bytes("library/built") == 0
    assert place.other.counters()["from_peers"] >= 500_000


def test_pulls_go_on_while_the_origin_is_stopped(place: Place) -> None:
    image = random_image("away", 300_000, 50_000)
    digest = place.origin.publish("library/away:1", image)
    place.docker.pull("away:1")
    await_held([place.other], "away:1", [place.docker])
    place.origin.stop()
    try:
        place.containerd.pull("docker.io/library/away:1")
    finally:
        place.origin.start()
        for host in (place.docker, place.other):
            await_asked_again(host, "library/away")
    assert place.containerd.digest("docker.io/library/away:1") == digest
    assert place.containerd.is_whole("docker.io/library/away:1")


def test_what_containerd_pulled_its_agent_gives_to_others(place: Place) -> None:
    image = random_image("given", 300_000, 50_000)
    digest = place.origin.publish("team/given:1", image)
    place.containerd.pull(f"{place.elsewhere}/team/given@{digest}")
    before = place.origin.blob_bytes("team/given")
    place.docker.pull(f"{place.elsewhere}/team/given:1")
    assert place.docker.inspect(f"{place.elsewhere}/team/given:1")["Id"] == image.id
    assert place.origin.blob_bytes("team/given") - before <= SMALL_BYTES
    assert place.docker.counters()["from_peers"] >= 350_000


def test_without_its_agent_containerd_asks_the_registry_itself(place: Place) -> None:
    image = random_image("alone", 50_000)
    digest = place.origin.publish("team/alone:1", image)
    # Its registry answers without TLS, which is more than the guide has to say of a registry.
    place.containerd.set_hosts(
        place.elsewhere, f'server = "http://{place.elsewhere}"\n\n{guides_hosts_toml()}'
    )
    name = f"{place.elsewhere}/team/alone:1"
    place.other.agent.stop()
    try:
        place.containerd.pull(name)
    finally:
        place.other.agent.start()
        await_one_state([place.docker.agent, place.other.agent])
    assert place.containerd.digest(name) == digest
    assert place.containerd.is_whole(name)
