"""Tags and access rights, while origins answer, refuse, send wrong bytes, move or are down."""

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.lab.agents import Agents, await_one_state
from tests.lab.bad_registry import start_bad_registry
from tests.lab.conftest import missing_for_network
from tests.lab.network import Host, Lan
from tests.lab.pulling import Answer, Origin, PullHost, ask, random_image
from tests.lab.registry import missing_for_registry

pytestmark = pytest.mark.lab

USER: Final = "user:secret"
HTPASSWD: Final = "user:$2b$04$SHu4UWyJcnnHv12zr7o4POP3Pysrxep6zdJV51BAuMnhxvGrIb8fm"
PRIVATE_PORT: Final = 5001
HTTP_PORT: Final = 8888
CLUSTER_HOSTS: Final = 2


class Place(NamedTuple):
    """Two hosts with agents, which may share the credentials or not, and one without.

    Attributes:
      knowing: may read the private registry.
      other: may not.
      stranger: runs no agent.
    """

    lan: Lan
    agents: Agents
    origin: Origin
    private: Origin
    origins: str
    knowing: PullHost
    other: PullHost
    stranger: Host

    @contextmanager
    def agent_with(self, **options: str) -> Iterator[PullHost]:
        """An agent of those options on the host that has none."""
        agent = self.agents.start(
            self.stranger, engine="oci", environ={"BEIRAN_ORIGIN": self.origins}, **options
        )
        try:
            await_one_state([agent, self.knowing.agent, self.other.agent])
            yield PullHost(agent)
        finally:
            agent.stop()
            await_one_state([self.knowing.agent, self.other.agent])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if missing := missing_for_network() or missing_for_registry():
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("origins")
    with ExitStack() as stack:
        lan = stack.enter_context(Lan("brnlaborigin", 5))
        public, secret, first, second, stranger = lan.hosts
        origin = stack.enter_context(Origin(lan, public, folder / "origin"))
        private = stack.enter_context(
            Origin(lan, secret, folder / "private", htpasswd=HTPASSWD, port=PRIVATE_PORT)
        )
        bad = stack.enter_context(start_bad_registry(lan, secret))
        origins = f"docker.io=http://{origin.address},private.lab=http://{private.address}"
        origins += f",bad.lab=http://{bad}"
        credentials = folder / "credentials.json"
        secret_word = base64.b64encode(USER.encode()).decode()
        auths = {name: {"auth": secret_word} for name in ("private.lab", private.address)}
        credentials.write_text(json.dumps({"auths": auths}))
        none = folder / "none.json"
        none.write_text("{}")
        agents = stack.enter_context(Agents(lan))
        running = [
            agents.start(
                host,
                engine="oci",
                docker_config=str(config),
                environ={"BEIRAN_ORIGIN": origins},
            )
            for host, config in ((first, credentials), (second, none))
        ]
        await_one_state(running)
        knowing, other = map(PullHost, running)
        yield Place(lan, agents, origin, private, origins, knowing, other, stranger)
        agents.print_logs()


def manifest(host: PullHost, repository: str, reference: str, registry: str = "") -> Answer:
    """Ask the mirror what a reference means."""
    query = f"?ns={registry}" if registry else ""
    return host.ask(f"/v2/{repository}/manifests/{reference}{query}")


def blob(host: PullHost, repository: str, digest: str, registry: str = "") -> Answer:
    """Ask the mirror for a blob."""
    query = f"?ns={registry}" if registry else ""
    return host.ask(f"/v2/{repository}/blobs/{digest}{query}")


# --- tags ----------------------------------------------------------------------------------------


def test_a_tag_means_what_its_origin_says_now_for_one_question(place: Place) -> None:
    for version in ("first", "second"):
        digest = place.origin.publish("library/moved:1", random_image(version, 10_000))
        before = len(place.origin.manifest_requests("library/moved"))
        answer = manifest(place.other, "library/moved", "1")
        assert answer.headers["Docker-Content-Digest"] == digest
        asked = place.origin.manifest_requests("library/moved")[before:]
        assert [line for line in asked if line.startswith("HEAD")] == ["HEAD 1"]


def test_within_the_time_that_is_set_a_tag_is_not_asked_about_again(place: Place) -> None:
    digest = place.origin.publish("library/kept:1", random_image("kept", 10_000))
    with place.agent_with(tag_ttl="300") as host:
        assert manifest(host, "library/kept", "1").headers["Docker-Content-Digest"] == digest
        before = place.origin.manifest_requests("library/kept")
        place.origin.publish("library/kept:1", random_image("kept later", 10_000))
        assert manifest(host, "library/kept", "1").headers["Docker-Content-Digest"] == digest
        assert place.origin.manifest_requests("library/kept") == before


def test_what_peers_knew_last_counts_while_the_origin_is_away_unless_that_is_denied(
    place: Place,
) -> None:
    old = place.origin.publish("library/known:1", random_image("known", 10_000))
    assert manifest(place.knowing, "library/known", "1").status == 200
    new = place.origin.publish("library/known:1", random_image("known later", 10_000))
    assert new != old
    assert manifest(place.other, "library/known", "1").status == 200
    with place.agent_with() as asker:
        place.origin.stop()
        try:
            answer = manifest(asker, "library/known", "1")
            assert answer.headers["Docker-Content-Digest"] == new
            assert "docker.io does not answer" in answer.headers["Warning"]
        finally:
            place.origin.start()
    with place.agent_with(offline_tags="deny") as asker:
        place.origin.stop()
        try:
            answer = manifest(asker, "library/known", "1")
            assert answer.status == 503
            assert "docker.io does not answer" in answer.message
        finally:
            place.origin.start()


def test_a_silent_origin_delays_no_pull_for_longer_than_a_client_waits(
    place: Place,
) -> None:
    image = random_image("silent", 50_000)
    digest = place.origin.publish("library/silent:1", image)
    assert place.knowing.pull("silent:1").returncode == 0
    place.lan.silence(place.origin.host)
    try:
        for _ in range(3):
            answer = manifest(place.other, "library/silent", "1")
            assert answer.status == 200  # it is 503 when the time is over
            assert answer.headers["Docker-Content-Digest"] == digest
        for layer in json.loads(answer.body)["layers"]:
            assert blob(place.other, "library/silent", layer["digest"]).status == 200
        assert manifest(place.other, "library/never-heard-of", "1").status == 503
    finally:
        place.lan.hear_again(place.origin.host)


# --- private images ------------------------------------------------------------------------------


def test_a_private_image_goes_only_to_hosts_that_its_registry_authorises(
    place: Place,
) -> None:
    image = random_image("private", 50_000)
    digest = place.private.publish("team/app:1", image, credentials=USER)
    granted = manifest(place.knowing, "team/app", "1", "private.lab")
    assert granted.headers["Docker-Content-Digest"] == digest
    layer = json.loads(granted.body)["layers"][0]["digest"]
    assert blob(place.knowing, "team/app", layer, "private.lab").status == 200
    for reference in ("1", digest):
        denied = manifest(place.other, "team/app", reference, "private.lab")
        assert (denied.status, denied.code) == (403, "DENIED")
    denied = blob(place.other, "team/app", layer, "private.lab")
    assert (denied.status, denied.code) == (403, "DENIED")
    # Nor by the name of a public repository that lacks it.
    place.origin.publish("library/open:1", random_image("open", 1_000))
    unknown = blob(place.other, "library/open", layer)
    assert (unknown.status, unknown.code) == (404, "BLOB_UNKNOWN")
    assert place.other.pull("private.lab/team/app:1", check=False).returncode != 0


def test_agents_serve_no_host_that_is_not_a_member(place: Place) -> None:
    image = random_image("members", 10_000)
    digest = place.origin.publish("library/members:1", image)
    layers = json.loads(manifest(place.knowing, "library/members", "1").body)["layers"]
    layer = layers[0]["digest"]
    assert blob(place.knowing, "library/members", layer).status == 200
    address = (place.knowing.host.address, HTTP_PORT)
    for path in (f"/blobs/{layer}", f"/manifests/{digest}", "/tags?reference=a", "/images/x"):
        if path != "/images/x":
            assert ask(place.lan, place.stranger, address, path).status == 403
            assert ask(place.lan, place.other.host, address, path).status != 403
    have = json.dumps({"digests": [layer]}).encode()
    answer = ask(place.lan, place.stranger, address, "/blobs/have", method="POST", body=have)
    assert answer.status == 403


# --- origins that answer badly -------------------------------------------------------------------


@pytest.mark.parametrize("how", ["huge", "mismatch", "html", "circle", "nested", "schema1"])
def test_a_manifest_that_cannot_be_used_is_an_error_and_is_not_kept(place: Place, how: str) -> None:
    before = place.other.cached_blobs()
    done = place.other.pull(f"bad.lab/bad/{how}:1", check=False)
    assert done.returncode != 0
    assert done.stderr.count("\n") <= 1, done.stderr
    assert "Traceback" not in done.stderr
    if how not in ("circle", "nested"):
        assert manifest(place.other, f"bad/{how}", "1", "bad.lab").status in (404, 502)
        assert place.other.cached_blobs() == before
    assert place.other.agent.process is not None
    assert place.other.agent.process.poll() is None


@pytest.mark.parametrize("how", ["short", "wrong"])
def test_a_layer_with_a_wrong_digest_reaches_no_client_whole_and_is_not_kept(
    place: Place, how: str
) -> None:
    document = json.loads(manifest(place.other, f"bad/{how}", "1", "bad.lab").body)
    layer = document["layers"][0]["digest"]
    done = place.other.pull(f"bad.lab/bad/{how}:1", check=False)
    assert done.returncode != 0
    assert done.stderr.count("\n") <= 1, done.stderr
    whole = place.other.agent.data_dir / "blobs" / "whole"
    assert not list(whole.glob(f"{layer[7:]}*"))


@pytest.mark.parametrize(
    "path",
    [
        "/v2/../../../etc/passwd/manifests/1",
        "/v2/library/..%2f..%2fetc/manifests/1",
        "/v2/library/%2e%2e/manifests/1",
        "/v2/library/app/manifests/..%2f..%2fpasswd",
        "/v2/library/app/blobs/sha256:..%2f..%2fpasswd",
        "/v2/library/app/manifests/1%00",
        "/v2/library/app/manifests/1?ns=..%2f..",
    ],
)
def test_a_path_in_a_reference_is_refused_and_not_asked_of_the_origin(
    place: Place, path: str
) -> None:
    before = place.origin.asked()
    assert place.other.ask(path).status in (400, 404)
    assert place.origin.asked() == before


def test_a_reference_that_is_a_path_is_refused_by_the_command_line(place: Place) -> None:
    for reference in ("../../etc/passwd:1", "a/../../b:1", "bad.lab/../x:1"):
        done = place.other.pull(reference, check=False)
        assert done.returncode != 0
        assert done.stderr.count("\n") <= 1


def test_no_cache_is_left_of_a_path(place: Place) -> None:
    blobs: Path = place.other.agent.data_dir / "blobs"
    assert {path.name for path in blobs.iterdir()} <= {"whole", "partial", "scratch", "sizes"}
