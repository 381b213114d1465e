"""Settings come from the command line, the environment and the file, in that order of weight."""

import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from beiran.errors import SettingsError
from beiran.settings.settings import (
    FILE_KEYS,
    OPTION_NAMES,
    EngineSpec,
    HostPort,
    Limit,
    OriginSettings,
    Settings,
    load_settings,
    option_flag,
    option_variable,
)


def load(
    config_dir: Path,
    *,
    cli: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    file: str | bytes | None = None,
) -> Settings:
    if file is not None:
        data = file.encode() if isinstance(file, str) else file
        (config_dir / "beiran.toml").write_bytes(data)
    return load_settings(
        {"config_dir": str(config_dir), **(cli or {})},
        environ or {},
        docker_socket=str(config_dir / "no-docker.sock"),
    )


def fault(config_dir: Path, **given: object) -> str:
    with pytest.raises(SettingsError) as caught:
        load(config_dir, **given)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_without_anything_given_the_defaults_hold(tmp_path: Path) -> None:
    settings = load(tmp_path, environ={"HOME": "/home/me"})
    assert settings == Settings(
        config_dir=tmp_path,
        name=socket.gethostname(),
        engine=EngineSpec("none"),
        docker_config=Path("/home/me/.docker/config.json"),
    )
    assert (settings.mirror_port, settings.cache_bytes, settings.tag_ttl) == (8880, None, 0)
    assert (settings.offline_tags, settings.origins) == ("allow", {})
    assert settings.upload_limit == settings.download_limit == settings.origin_limit == Limit()
    assert str(settings.data_dir) == "/var/lib/beiran"
    assert str(settings.socket) == "/run/beiran/beiran.sock"
    assert (settings.cluster, settings.bind, settings.advertise) == ("default", "0.0.0.0", None)
    assert (settings.port, settings.beacon_port) == (8888, 8887)
    assert (settings.log_level, settings.log_format) == ("info", "text")
    assert settings.beacon
    assert (settings.join, settings.dns) == ((), ())


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = 'port = 1001\ncluster = "file"\nname = "file"\n'
    environ = {"BEIRAN_PORT": "1002", "BEIRAN_CLUSTER": "environment"}
    settings = load(tmp_path, cli={"port": "1003"}, environ=environ, file=file)
    assert (settings.port, settings.cluster, settings.name) == (1003, "environment", "file")


def test_every_option_can_be_set_in_all_three_places(tmp_path: Path) -> None:
    texts = {
        "data_dir": "/d",
        "socket": "/s",
        "cluster": "c",
        "name": "n",
        "bind": "10.0.0.1",
        "advertise": "10.0.0.2",
        "port": "1001",
        "beacon_port": "1002",
        "join": "10.0.0.3,10.0.0.4:99",
        "dns": "a.example,b.example",
        "beacon": "false",
        "engine": "none",
        "mirror_port": "0",
        "origin": "docker.io=https://c.example/hub,r.example:5000=http://10.0.0.9",
        "docker_config": "/c.json",
        "cache_bytes": "2GiB",
        "tag_ttl": "1.5",
        "offline_tags": "deny",
        "upload_limit": "50MB",
        "download_limit": "8x",
        "origin_limit": "50MB,8x",
        "allow_prefetch": "busybox,quay.io/a/*",
        "log_level": "debug",
        "log_format": "json",
    }
    assert tuple(texts) == FILE_KEYS
    several = ("join", "dns", "origin", "allow_prefetch")
    lists = {name: text.split(",") for name, text in texts.items() if name in several}
    lines = [f"{name} = {lists.get(name, text)!r}" for name, text in texts.items()]
    file = "\n".join(lines).replace("'1001'", "1001").replace("'1002'", "1002")
    file = file.replace("'false'", "false")
    expected = Settings(
        config_dir=tmp_path,
        data_dir=Path("/d"),
        socket=Path("/s"),
        cluster="c",
        name="n",
        bind="10.0.0.1",
        advertise="10.0.0.2",
        port=1001,
        beacon_port=1002,
        join=(HostPort("10.0.0.3", 1001), HostPort("10.0.0.4", 99)),
        dns=("a.example", "b.example"),
        beacon=False,
        engine=EngineSpec("none"),
        mirror_port=0,
        origin=("docker.io=https://c.example/hub", "r.example:5000=http://10.0.0.9"),
        origins={
            "docker.io": OriginSettings(url="https://c.example/hub"),
            "r.example:5000": OriginSettings(url="http://10.0.0.9"),
        },
        docker_config=Path("/c.json"),
        cache_bytes=2**31,
        tag_ttl=1.5,
        offline_tags="deny",
        upload_limit=Limit(50_000_000),
        download_limit=Limit(None, 8),
        origin_limit=Limit(50_000_000, 8),
        allow_prefetch=("docker.io/library/busybox", "quay.io/a/*"),
        log_level="debug",
        log_format="json",
    )
    assert load(tmp_path, cli={**texts, **lists, "beacon": False}) == expected
    assert load(tmp_path, environ={option_variable(n): t for n, t in texts.items()}) == expected
    assert load(tmp_path, file=file) == expected


def test_options_are_spelled_alike_in_all_three_places() -> None:
    assert ("config_dir", *FILE_KEYS) == OPTION_NAMES
    assert option_flag("beacon_port") == "--beacon-port"
    assert option_variable("beacon_port") == "BEIRAN_BEACON_PORT"


def test_the_environment_can_name_the_config_dir(tmp_path: Path) -> None:
    (tmp_path / "beiran.toml").write_text('name = "from-there"')
    settings = load_settings({}, {"BEIRAN_CONFIG_DIR": str(tmp_path)})
    assert (settings.config_dir, settings.name) == (tmp_path, "from-there")


def test_an_empty_variable_and_a_missing_file_mean_nothing(tmp_path: Path) -> None:
    assert load(tmp_path / "absent", environ={"BEIRAN_PORT": "", "BEIRAN_JOIN": ""}).port == 8888


def test_unknown_key_is_an_error_that_names_it_the_file_and_the_nearest(tmp_path: Path) -> None:
    text = fault(tmp_path, file='data-dir = "/d"')
    assert str(tmp_path / "beiran.toml") in text
    assert "unknown key 'data-dir'; did you mean 'data_dir'?" in text


def test_an_unknown_key_like_no_other_has_no_suggestion(tmp_path: Path) -> None:
    assert fault(tmp_path, file="zzz = 1").endswith("unknown key 'zzz'")


def test_config_dir_in_the_file_is_an_error(tmp_path: Path) -> None:
    assert "config_dir cannot be set" in fault(tmp_path, file='config_dir = "/x"')


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("port = ", "not TOML"),
        (b'name = "\xff"', "not UTF-8"),
        (b"#" * (1024 * 1024 + 1), "larger than"),
    ],
)
def test_a_file_that_cannot_be_read_says_so(tmp_path: Path, file: str | bytes, said: str) -> None:
    text = fault(tmp_path, file=file)
    assert str(tmp_path / "beiran.toml") in text
    assert said in text


def test_a_folder_in_the_place_of_the_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "beiran.toml").mkdir()
    assert "cannot be read: Is a directory" in fault(tmp_path)


BAD_VALUES = [
    ("port", "0", "not a port"),
    ("port", "65536", "not a port"),
    ("port", "http", "not a port"),
    ("port", "-1", "not a port"),
    ("port", "8888.0", "not a port"),
    ("beacon_port", "123456", "not a port"),
    ("bind", "localhost", "not an IP address"),
    ("bind", "fe80::1%eth0", "zone"),
    ("advertise", "0.0.0.0", "not the address of one host"),
    ("advertise", "224.0.0.1", "not the address of one host"),
    ("advertise", "::", "not the address of one host"),
    ("advertise", "fd00::1", "IPv4 only"),
    ("name", "a b", "not a name"),
    ("name", "a\x1b[31m", "not a name"),
    ("name", "ä" * 128, "at most 255 bytes"),
    ("cluster", "c" * 256, "at most 255 bytes"),
    ("socket", "/" + "s" * 107, "at most 107"),
    ("data_dir", "a\0b", "not a path"),
    ("join", "host-a", "for a name there is --dns"),
    ("join", "10.0.0.1:0", "not a port"),
    ("join", "10.0.0", "not an IP address"),
    ("join", "[::1", "not an IP address"),
    ("join", "[::1]x", "not an IP address"),
    ("join", ",".join(f"10.0.{n >> 8}.{n & 255}" for n in range(1, 1002)), "at most 1000"),
    ("dns", "-a.example", "not a DNS name"),
    ("dns", "a..example", "not a DNS name"),
    ("dns", "10.0.0.1", "not a DNS name"),
    ("dns", "l" * 64 + ".example", "not a DNS name"),
    ("dns", ".".join(["label"] * 50), "not a DNS name"),
    ("beacon", "maybe", "neither true nor false"),
    ("engine", "docker", "not an engine"),
    ("engine", "docker://relative.sock", "not an engine"),
    ("engine", "oci:", "not an engine"),
    ("engine", "oci:///layout", "not an engine"),
    ("mirror_port", "-1", "not a port"),
    ("mirror_port", "65536", "not a port"),
    ("mirror_port", "8888", "port and mirror port are both 8888"),
    ("origin", "docker.io", "not an origin"),
    ("origin", "=https://a", "not a registry"),
    ("origin", "a b=https://a", "not a registry"),
    ("origin", "r.example:99999=https://a", "not a registry"),
    ("origin", "docker.io=cache.example", "not a URL"),
    ("origin", "docker.io=ftp://cache.example", "not a URL"),
    ("origin", "docker.io=https://", "not a URL"),
    ("origin", "docker.io=https://[::1", "not a URL"),
    ("origin", "docker.io=https://u:p@cache.example", "no credentials"),
    ("origin", "docker.io=https://cache.example?x=1", "has a query"),
    ("cache_bytes", "0", "between 1 byte"),
    ("cache_bytes", "-1", "not a size"),
    ("cache_bytes", "10%", "not a size"),
    ("cache_bytes", "2XB", "not a size"),
    ("cache_bytes", "9999999999TB", "between 1 byte"),
    ("tag_ttl", "-1", "not a number of seconds"),
    ("tag_ttl", "nan", "not a number of seconds"),
    ("tag_ttl", "1d", "not a number of seconds"),
    ("offline_tags", "maybe", "none of allow, deny"),
    ("upload_limit", "fast", "not a limit"),
    ("upload_limit", "0x", "not a limit"),
    ("upload_limit", "8x,9x", "not a limit"),
    ("upload_limit", "1MB,2MB", "not a limit"),
    ("download_limit", "8x,", "not a limit"),
    ("origin_limit", "0", "between 1 byte"),
    ("allow_prefetch", "a b", "not a repository"),
    ("allow_prefetch", "Upper/Case", "must be in lower case"),
    ("allow_prefetch", "quay.io/", "is no name"),
    ("log_level", "loud", "none of debug, info, warning, error"),
    ("log_format", "xml", "none of text, json"),
]


@pytest.mark.parametrize(("option", "value", "said"), BAD_VALUES)
def test_a_value_that_cannot_be_used_is_named_with_its_source(
    tmp_path: Path, option: str, value: str, said: str
) -> None:
    from_cli = fault(tmp_path, cli={option: value})
    from_environment = fault(tmp_path, environ={option_variable(option): value})
    assert said in from_cli
    assert said in from_environment
    assert from_cli.startswith(option_flag(option) + ": ")
    assert from_environment.startswith(option_variable(option) + ": ")


@pytest.mark.parametrize("option", ["join", "dns", "origin", "allow_prefetch"])
def test_a_bare_string_in_the_file_is_no_array(tmp_path: Path, option: str) -> None:
    text = fault(tmp_path, file=f'{option} = "10.0.0.1"')
    assert text.endswith(f"beiran.toml: {option}: takes an array: {option} = ['10.0.0.1']")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("port = true", "True is not a port"),
        ("port = 1.5", "1.5 is not a port"),
        ("name = 7", "7 is not a string"),
        ("join = 7", "7 is not an array"),
        ("join = [7]", "7 is not a string"),
        ("beacon = 1", "neither true nor false"),
        ("log_level = 1", "1 is none of"),
        ("engine = {}", "{} is not a string"),
        ("mirror_port = false", "False is not a port"),
        ("cache_bytes = true", "True is not a size"),
        ("cache_bytes = 1.5", "1.5 is not a size"),
        ("tag_ttl = true", "True is not a number"),
        ("upload_limit = 1.5", "1.5 is not a limit"),
        ("origins = 1", "1 is not a table"),
    ],
)
def test_a_value_of_another_type_in_the_file_is_named(tmp_path: Path, line: str, said: str) -> None:
    text = fault(tmp_path, file=line)
    assert text.startswith(f"{tmp_path / 'beiran.toml'}: {line.split()[0]}: ")
    assert said in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", HostPort("10.0.0.1", 8888)),
        ("10.0.0.1:99", HostPort("10.0.0.1", 99)),
        ("::1", HostPort("::1", 8888)),
        ("[::1]", HostPort("::1", 8888)),
        ("[::1]:8889", HostPort("::1", 8889)),
        ("[FD00:0::1]:8889", HostPort("fd00::1", 8889)),
    ],
)
def test_an_address_to_join_may_have_a_port(tmp_path: Path, text: str, expected: HostPort) -> None:
    assert load(tmp_path, cli={"join": [text]}).join == (expected,)


def test_an_address_given_twice_to_join_is_looked_up_once(tmp_path: Path) -> None:
    joined = load(tmp_path, cli={"join": ["10.0.0.2", "10.0.0.1", "10.0.0.2"]}).join
    assert [host for host, _ in joined] == ["10.0.0.2", "10.0.0.1"]


def test_dns_names_may_have_underscores_and_a_final_dot(tmp_path: Path) -> None:
    given = ["_beiran._udp.Example.org.", "tasks.beiran", "host-1"]
    expected = ("_beiran._udp.example.org", "tasks.beiran", "host-1")
    assert load(tmp_path, cli={"dns": given}).dns == expected


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("none", EngineSpec("none")),
        ("docker:///run/user/1000/docker.sock", EngineSpec("docker", "/run/user/1000/docker.sock")),
        ("oci:/srv/layout", EngineSpec("oci", "/srv/layout")),
        ("tcp://10.0.0.1:2376", EngineSpec("docker", "tcp://10.0.0.1:2376")),
        ("ssh://me@build.example:2222", EngineSpec("docker", "ssh://me@build.example:2222")),
        ("context:rootless", EngineSpec("docker", "context:rootless")),
    ],
)
def test_an_engine_reads_and_shows_alike(tmp_path: Path, text: str, spec: EngineSpec) -> None:
    assert load(tmp_path, cli={"engine": text}).engine == spec
    assert str(spec) == text


def test_relative_folders_are_taken_from_where_the_agent_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(tmp_path, cli={"data_dir": "data", "engine": "oci:layout"})
    assert settings.data_dir == tmp_path / "data"
    assert settings.engine.path == str(tmp_path / "layout")


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        (1024, 1024),
        ("1024", 1024),
        ("1b", 1),
        ("500MB", 500_000_000),
        ("500mb", 500_000_000),
        ("1.5 GB", 1_500_000_000),
        ("2G", 2_000_000_000),
        ("2GiB", 2**31),
        ("2gi", 2**31),
        ("1TiB", 2**40),
        ("3KiB", 3072),
    ],
)
def test_sizes_as_people_write_them(tmp_path: Path, text: object, size_bytes: int) -> None:
    assert load(tmp_path, cli={"cache_bytes": text}).cache_bytes == size_bytes


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("none", Limit(), "none"),
        ("50MB", Limit(50_000_000), "50000000B"),
        ("50MB/s", Limit(50_000_000), "50000000B"),
        (50_000_000, Limit(50_000_000), "50000000B"),
        ("8x", Limit(None, 8), "8x"),
        ("8X , 1MiB", Limit(2**20, 8), "1048576B,8x"),
    ],
)
def test_limits_read_and_show_alike(tmp_path: Path, text: object, limit: Limit, shown: str) -> None:
    assert load(tmp_path, cli={"upload_limit": text}).upload_limit == limit
    assert str(limit) == shown
    assert load(tmp_path, cli={"upload_limit": shown}).upload_limit == limit


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("all", "*"),
        ("*", "*"),
        ("busybox", "docker.io/library/busybox"),
        ("team/*", "docker.io/team/*"),
        ("docker.io/library/*", "docker.io/library/*"),
        ("*.example/a", "*.example/a"),
        ("Quay.io/a/b", "quay.io/a/b"),
        ("host:5000/*", "host:5000/*"),
    ],
)
def test_repositories_to_prefetch_are_names_in_full(
    tmp_path: Path, text: str, pattern: str
) -> None:
    assert load(tmp_path, cli={"allow_prefetch": [text]}).allow_prefetch == (pattern,)


TABLES = """
origin = ["docker.io=https://short.example"]
[origins."index.docker.io"]
url = "https://long.example/"
username = "u"
password = "p"
[origins."R.example:5000"]
ca = "/ca.pem"
plain_http = true
"""


def test_tables_of_origins_have_canonical_names_and_the_short_form_wins(tmp_path: Path) -> None:
    assert load(tmp_path, file=TABLES).origins == {
        "docker.io": OriginSettings(url="https://short.example", username="u", password="p"),
        "r.example:5000": OriginSettings(ca=Path("/ca.pem"), plain_http=True),
    }


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('[origins."a b"]', "origins: 'a b' is not a registry"),
        ("[origins]\nr = 1", "origins.r: 1 is not a table"),
        ("[origins.r]\nuser = 'u'", "origins.r: unknown key 'user'; did you mean 'username'?"),
        ("[origins.r]\nusername = 'u'", "username and password go together"),
        ("[origins.r]\npassword = ''\nusername = 'u'", "origins.r: password: is empty"),
        ("[origins.r]\nurl = 'r'", "origins.r: url: 'r' is not a URL"),
        ("[origins.r]\nplain_http = 1", "origins.r: plain_http: 1 is neither"),
        ("[origins.r]\nurl = 'https://r'\nplain_http = true", "registries without a url"),
        ("[origin.r]\nurl = 'https://r'", "is not an array of strings"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(tmp_path: Path, lines: str, said: str) -> None:
    assert said in fault(tmp_path, file=lines)


def test_a_password_is_in_no_error(tmp_path: Path) -> None:
    text = fault(tmp_path, file="[origins.r]\nusername = 'u'\npassword = \"hid\\u0000den\"")
    assert "hid" not in text.replace(str(tmp_path), "")


def test_dockers_file_is_where_docker_login_of_this_user_writes(tmp_path: Path) -> None:
    environ = {"HOME": "/home/me", "DOCKER_CONFIG": "/elsewhere"}
    assert load(tmp_path, environ=environ).docker_config == Path("/elsewhere/config.json")


@pytest.fixture
def docker_socket(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "docker.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        yield path


def test_dockers_socket_is_the_engine_if_it_is_there(tmp_path: Path, docker_socket: str) -> None:
    settings = load_settings({"config_dir": str(tmp_path)}, {}, docker_socket=docker_socket)
    assert settings.engine == EngineSpec("docker", docker_socket)


def test_engine_is_the_one_that_dockers_own_tools_would_ask(
    tmp_path: Path, docker_socket: str
) -> None:
    remote = {"DOCKER_HOST": "tcp://10.0.0.1:2375", "DOCKER_CONTEXT": "other"}
    assert load(tmp_path, environ=remote).engine.path == "tcp://10.0.0.1:2375"
    assert load(tmp_path, environ={"DOCKER_HOST": f"unix://{docker_socket}"}).engine == (
        EngineSpec("docker", docker_socket)
    )
    assert load(tmp_path, environ={"DOCKER_CONTEXT": "other"}).engine.path == "context:other"
    rootless = {"DOCKER_CONTEXT": "default", "XDG_RUNTIME_DIR": str(tmp_path)}
    assert load(tmp_path, environ=rootless).engine == EngineSpec("docker", docker_socket)
    assert load(tmp_path, cli={"engine": "none"}, environ=remote).engine == EngineSpec("none")
    assert "DOCKER_HOST" in fault(tmp_path, environ={"DOCKER_HOST": "npipe:////./pipe/docker"})


def test_a_file_in_the_place_of_dockers_socket_is_no_engine(tmp_path: Path) -> None:
    (tmp_path / "no-docker.sock").write_text("")
    assert load(tmp_path).engine == EngineSpec("none")


def test_one_port_for_gossip_and_beacons_is_an_error(tmp_path: Path) -> None:
    assert fault(tmp_path, cli={"port": "8887"}).startswith("--port: ")
    assert fault(tmp_path, cli={"beacon_port": "8888"}).startswith("--beacon-port: ")
    assert load(tmp_path, cli={"port": "8887", "beacon": False}).port == 8887
