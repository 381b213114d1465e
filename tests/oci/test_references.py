"""Names of images, as people write them, in full, and in the mirror's paths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beiran.ids import parse_digest
from beiran.oci.references import (
    Reference,
    full_repository,
    matches_any,
    mirror_repository,
    mirrored_repository,
    parse_reference,
    registry_name,
)

DIGEST_TEXT = "sha256:" + "1a" * 32
DIGEST = parse_digest(DIGEST_TEXT)

READ = [
    ("busybox", Reference("docker.io", "library/busybox"), "busybox"),
    ("busybox:1", Reference("docker.io", "library/busybox", "1"), "busybox:1"),
    ("user/app:1", Reference("docker.io", "user/app", "1"), "user/app:1"),
    ("docker.io/busybox", Reference("docker.io", "library/busybox"), "busybox"),
    ("index.docker.io/library/a:b", Reference("docker.io", "library/a", "b"), "a:b"),
    ("library/a/b", Reference("docker.io", "library/a/b"), "library/a/b"),
    ("quay.io/a", Reference("quay.io", "a"), "quay.io/a"),
    ("Quay.IO/a", Reference("quay.io", "a"), "quay.io/a"),
    ("localhost/a", Reference("localhost", "a"), "localhost/a"),
    ("LOCALHOST/a", Reference("localhost", "a"), "localhost/a"),
    ("host:5000/a/b:1", Reference("host:5000", "a/b", "1"), "host:5000/a/b:1"),
    ("[::1]:5000/a", Reference("[::1]:5000", "a"), "[::1]:5000/a"),
    ("host/a", Reference("docker.io", "host/a"), "host/a"),
    (f"a@{DIGEST_TEXT}", Reference("docker.io", "library/a", None, DIGEST), f"a@{DIGEST_TEXT}"),
    (
        f"host:5000/a/b:1@{DIGEST_TEXT}",
        Reference("host:5000", "a/b", "1", DIGEST),
        f"host:5000/a/b:1@{DIGEST_TEXT}",
    ),
    ("a.b__c--d/e_f", Reference("a.b__c--d", "e_f"), None),
    ("a__b/c---d", Reference("docker.io", "a__b/c---d"), "a__b/c---d"),
]


@pytest.mark.parametrize(("text", "expected", "familiar"), [r for r in READ if r[2]])
def test_a_name_reads_as_docker_reads_it(text: str, expected: Reference, familiar: str) -> None:
    found = parse_reference(text)
    assert found == expected
    assert found.familiar == familiar
    assert parse_reference(str(found)) == parse_reference(familiar) == found


def test_what_goes_without_saying() -> None:
    assert str(parse_reference("a").tagged) == "docker.io/library/a:latest"
    assert parse_reference(f"a@{DIGEST_TEXT}").tagged.tag is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no name"),
        ("A", "must be in lower case"),
        ("user/App", "must be in lower case"),
        ("a:", "'' is not a tag"),
        ("a:-1", "is not a tag"),
        ("a:" + "t" * 129, "is not a tag"),
        ("a@", "not a SHA-256"),
        ("a@sha256:12", "not a SHA-256"),
        ("a@sha512:" + "1" * 128, "not a SHA-256"),
        ("a//b", "is no name"),
        ("/a", "is no name"),
        ("a/", "is no name"),
        ("a_/b", "is no name"),
        ("a..b/", "is not a registry"),
        ("a___b", "is no name"),
        ("-a.example/b", "is not a registry"),
        ("host:0/a", "is not a registry"),
        ("host:99999/a", "is not a registry"),
        ("https://quay.io/a", "is not a registry"),
        ("a\nb", "is no name"),
        ("b" * 256, "at most 255 characters"),
        ("1a" * 32, "is an image's ID"),
    ],
)
def test_an_invalid_name_is_reported_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse_reference(text)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="aA0._-:/@[]\n é"))
def test_any_text_is_a_name_or_a_value_error(text: str) -> None:
    try:
        found = parse_reference(text)
    except ValueError:
        return
    assert parse_reference(str(found)) == found
    assert parse_reference(found.familiar) == found


@pytest.mark.parametrize(
    ("registry", "repository", "path"),
    [
        ("docker.io", "library/busybox", "library/busybox"),
        ("docker.io", "user/app", "user/app"),
        ("quay.io", "a/b", "quay.io/a/b"),
        ("localhost", "a", "localhost/a"),
        ("host:5000", "a", "host__5000/a"),
        ("r.example:5000", "a/b", "r.example__5000/a/b"),
        ("docker.io", "a.b/c", "docker.io/a.b/c"),
        ("docker.io", "a__50/c", "docker.io/a__50/c"),
        ("docker.io", "a__b/c", "a__b/c"),
    ],
)
def test_repositories_have_a_path_in_the_mirror(registry: str, repository: str, path: str) -> None:
    assert mirror_repository(registry, repository) == path
    assert mirrored_repository(path) == (registry, repository)


def test_paths_that_a_mirror_may_be_asked() -> None:
    assert mirrored_repository("busybox") == ("docker.io", "library/busybox")
    assert mirrored_repository("docker.io/library/a") == ("docker.io", "library/a")
    assert mirrored_repository("registry-1.docker.io/library/a") == ("docker.io", "library/a")
    for path in ("", "quay.io", "quay.io/", "A/b", "host__0/a/", "../a"):
        if path == "quay.io":  # a repository of Docker Hub, as any name without a slash
            assert mirrored_repository(path) == ("docker.io", "library/quay.io")
            continue
        with pytest.raises(ValueError, match=r"name|lower|registry"):
            mirrored_repository(path)


def test_registries_that_have_no_path_are_named() -> None:
    for registry in ("[::1]:5000", "host"):
        with pytest.raises(ValueError, match="no name in the mirror"):
            mirror_repository(registry, "a")


def test_a_registry_has_one_name() -> None:
    assert registry_name("Registry-1.Docker.io") == "docker.io"
    assert registry_name("HOST:5000") == "host:5000"
    assert full_repository("Host.example/a") == ("host.example", "a")


@pytest.mark.parametrize(
    ("patterns", "matches"),
    [
        ([], False),
        (["*"], True),
        (["docker.io/library/a"], True),
        (["docker.io/library/*"], True),
        (["quay.io/*", "docker.io/lib*/a"], True),
        (["docker.io/library/"], False),
        (["docker.io/*/b"], False),
    ],
)
def test_which_repositories_a_pattern_takes(patterns: list[str], matches: bool) -> None:
    assert matches_any(patterns, "docker.io", "library/a") is matches
