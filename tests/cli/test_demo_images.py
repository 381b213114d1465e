"""Other readers of OCI layouts accept the demo's images."""

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from beiran_cli.demo_images import DemoImage, add_image, demo_layer, make_layout

BASE = demo_layer("base", 5000)
WEB = DemoImage("demo/web:1.0", (BASE, demo_layer("web", 100)))


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    make_layout(folder)
    return folder


def blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()


def test_everything_is_stored_under_its_digest_and_size(layout: Path) -> None:
    add_image(layout, WEB)
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": WEB.tag}
    manifest = json.loads(blob(layout, entry["digest"]))
    for descriptor in (entry, manifest["config"], *manifest["layers"]):
        data = blob(layout, descriptor["digest"])
        assert len(data) == descriptor["size"]
        assert "sha256:" + hashlib.sha256(data).hexdigest() == descriptor["digest"]
    assert manifest["config"]["digest"] == WEB.id


def test_the_config_names_the_uncompressed_layers(layout: Path) -> None:
    add_image(layout, WEB)
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = json.loads(blob(layout, entry["digest"]))
    config = json.loads(blob(layout, WEB.id))
    for descriptor, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        tar = gzip.decompress(blob(layout, descriptor["digest"]))
        assert "sha256:" + hashlib.sha256(tar).hexdigest() == diff_id
    with tarfile.open(fileobj=io.BytesIO(tar)) as files:
        assert files.getnames() == ["opt/web/data", "opt/web/README"]


def test_images_share_their_base_layer_on_disk(layout: Path) -> None:
    add_image(layout, WEB)
    before = len(list((layout / "blobs" / "sha256").iterdir()))
    add_image(layout, DemoImage("demo/shop:1.0", (BASE, demo_layer("shop", 100))))
    assert len(list((layout / "blobs" / "sha256").iterdir())) == before + 3


def test_one_image_is_the_same_in_two_folders(layout: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make_layout(other)
    add_image(layout, WEB)
    add_image(other, WEB)
    assert (layout / "index.json").read_bytes() == (other / "index.json").read_bytes()


@pytest.mark.needs("skopeo")
def test_skopeo_reads_the_layout(layout: Path) -> None:
    add_image(layout, WEB)
    done = subprocess.run(
        ["skopeo", "inspect", "--config", f"oci:{layout}:{WEB.tag}"],
        check=True,
        capture_output=True,
    )
    config = json.loads(done.stdout)
    assert config["rootfs"]["diff_ids"] == json.loads(WEB.config())["rootfs"]["diff_ids"]
