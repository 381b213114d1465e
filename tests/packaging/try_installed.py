"""Tries an installed beiran, whatever way it was installed: no test runner, no checkout.

    PYTHON -I try_installed.py

``PYTHON`` is that of the environment with beiran in it, the working folder an empty one. CI runs
this with the wheel, on its own Debian and on one without compilers (``.ci/try-wheel``).
"""

import hashlib
import importlib
import json
import os
import pkgutil
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from cyclopts import App

import beiran
import beiran_cli
from beiran_cli.demo_images import MANIFEST_TYPE, DemoImage, add_image, demo_layer, make_layout
from beiran_cli.main import make_app

PROGRAMS: Final = Path(sys.executable).parent
COMMAND_TIMEOUT_S: Final = 60
START_TIMEOUT_S: Final = 30
AGREE_TIMEOUT_S: Final = 30
ASK_AGAIN_S: Final = 0.05


def main() -> None:
    print(f"beiran {beiran.__version__} on Python {platform.python_version()}", flush=True)
    for package in (beiran, beiran_cli):
        assert Path(str(package.__file__)).is_relative_to(sys.prefix), package.__file__
    print(f"imported {import_all_modules()} modules", flush=True)
    for command in commands(make_app()):
        run("beiran", *command, "--help")
    run("beirand", "--help")
    print("every command has its --help", flush=True)
    run("beiran", "demo", "--no-docker")
    print("beiran demo ended well", flush=True)
    pull_from_neighbour()


def import_all_modules() -> int:
    names = [
        found.name
        for package in (beiran, beiran_cli)
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not found.name.endswith(".__main__")  # importing it runs the program
    ]
    for name in names:
        importlib.import_module(name)
    return len(names)


def commands(app: App, *path: str) -> Iterator[tuple[str, ...]]:
    """The words of each command below ``app``, and of ``app`` itself."""
    yield path
    for name in app:
        if not name.startswith("-"):  # --help and --version are commands too
            yield from commands(app[name], *path, name)


def run(program: str, *arguments: str) -> str:
    """Run an installed program, which must end well; what it prints."""
    done = subprocess.run(
        [PROGRAMS / program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        env={**os.environ, "COLUMNS": "120"},
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(
            f"{program} {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}"
        )
    return done.stdout


def pull_from_neighbour() -> None:
    """Two agents; one has an image, and a client of the other's mirror gets its bytes."""
    image = DemoImage("demo/web:1.0", (demo_layer("web", 300_000),))
    ports = free_ports(5)
    with TemporaryDirectory(prefix="beiran-try-") as name, ExitStack() as stack:
        folders = [Path(name, "one"), Path(name, "two")]
        for folder in folders:
            folder.mkdir()
            make_layout(folder / "images")
        add_image(folders[0] / "images", image)
        for folder, port, mirror_port in zip(folders, ports[:2], ports[2:4], strict=True):
            stack.enter_context(agent(folder, port, mirror_port, beacon_port=ports[4]))
        await_image(ports[1], image.id)
        manifest = get(ports[3], "/v2/demo/web/manifests/1.0", accept=MANIFEST_TYPE)
        (layer,) = json.loads(manifest)["layers"]
        blob = get(ports[3], f"/v2/demo/web/blobs/{layer['digest']}")
        assert "sha256:" + hashlib.sha256(blob).hexdigest() == layer["digest"]
        print(f"pulled {len(blob)} bytes from the neighbour through the mirror", flush=True)


@contextmanager
def agent(folder: Path, port: int, mirror_port: int, *, beacon_port: int) -> Iterator[None]:
    """``beirand`` with folders of its own, on loopback; no registry can be reached from it."""
    settings = {
        "config-dir": folder / "config",
        "data-dir": folder / "data",
        "socket": folder / "beiran.sock",
        "bind": "127.0.0.1",
        "port": port,
        "beacon-port": beacon_port,
        "mirror-port": mirror_port,
        "engine": f"oci:{folder / 'images'}",
        "origin": "docker.io=http://127.0.0.1:1",
        "cluster": folder.parent.name,
    }
    words = [str(PROGRAMS / "beirand"), *(f"--{key}={value}" for key, value in settings.items())]
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        await_info(process, port, log)
        yield
    except BaseException:
        print(log.read_text(), file=sys.stderr)
        raise
    finally:
        process.terminate()
        assert process.wait(COMMAND_TIMEOUT_S) == 0


def await_info(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):
            info = json.loads(get(port, "/info"))
            assert info["version"] == beiran.__version__, info
            return
        time.sleep(ASK_AGAIN_S)
    raise SystemExit(f"beirand does not answer /info; its log is {log}")


def await_image(port: int, image_id: str) -> None:
    deadline = time.monotonic() + AGREE_TIMEOUT_S
    while time.monotonic() < deadline:
        if image_id in {row["id"] for row in json.loads(get(port, "/images?all=true"))["images"]}:
            return
        time.sleep(ASK_AGAIN_S)
    raise SystemExit("the second agent does not list the image of the first")


def get(port: int, path: str, accept: str = "*/*") -> bytes:
    """The body of a 200."""
    connection = HTTPConnection("127.0.0.1", port, timeout=COMMAND_TIMEOUT_S)
    try:
        connection.request("GET", path, headers={"Accept": accept})
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    assert answer.status == 200, f"GET {path}: {answer.status} {body[:300]!r}"
    return body


def free_ports(count: int) -> Sequence[int]:
    """Ports that are free for TCP at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


if __name__ == "__main__":
    main()
