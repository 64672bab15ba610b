"""Which paths are images, on a real file system and with real qcow2 chains; who asks is told why not."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from needs import needs
from vdsm.base.errors import BadParameter
from vdsm.privileged.local import LocalPrivileged
from vdsm.virt.disks import ImageRef, Location, PathImages

pytestmark = needs("program:qemu-img")


@pytest.fixture
def allowed(tmp_path):
    path = tmp_path / "images"
    path.mkdir()
    return path


@pytest.fixture
def outside(tmp_path):
    path = tmp_path / "outside"
    path.mkdir()
    return path


@pytest.fixture
def images(allowed):
    return PathImages(LocalPrivileged(call_deadline_s=20, kvm_probe_s=10), [str(allowed)])


def create(path: Path, *options: str) -> Path:
    size = () if "-b" in options else ("4M",)
    subprocess.run(["qemu-img", "create", "-q", *options, path, *size], check=True, timeout=30)
    return path


def ref(path: Path | str, image_format: str | None = "qcow2") -> ImageRef:
    return ImageRef(field="disks[0].path", target="vda", path=str(path), format=image_format)


def refused(images: PathImages, asked: ImageRef) -> str:
    with pytest.raises(BadParameter) as caught:
        images.prepare(asked)
    assert caught.value.field == "disks[0].path"
    return caught.value.reason


def test_an_image_is_where_it_is(images, allowed):
    path = create(allowed / "a b.qcow2", "-f", "qcow2")
    assert images.prepare(ref(path)) == Location(str(path))
    assert images.prepare(ref(path)) == Location(str(path))
    images.teardown(ref(path))


def test_raw_content_is_not_looked_at(images, allowed):
    path = create(allowed / "x", "-f", "qcow2")
    assert images.prepare(ref(path, "raw")) == Location(str(path))


def test_links_inside_are_resolved(images, allowed):
    (allowed / "below").mkdir()
    path = create(allowed / "below/a", "-f", "raw")
    (allowed / "link").symlink_to("below/a")
    assert images.prepare(ref(allowed / "link", "raw")) == Location(str(path))


def test_the_allowed_directory_itself_may_be_a_link(allowed, outside):
    (outside / "link").symlink_to(allowed)
    path = create(allowed / "a", "-f", "raw")
    images = PathImages(LocalPrivileged(call_deadline_s=20, kvm_probe_s=10), [str(outside / "link")])
    for asked in (path, outside / "link/a"):
        assert images.prepare(ref(asked, "raw")) == Location(str(path))


def test_links_that_lead_outside_are_refused(images, allowed, outside):
    create(outside / "a", "-f", "raw")
    (allowed / "file").symlink_to(outside / "a")
    (allowed / "directory").symlink_to(outside)
    assert "leads outside" in refused(images, ref(allowed / "file", "raw"))
    assert "leads outside" in refused(images, ref(allowed / "directory/a", "raw"))


def test_what_is_not_there_is_refused(images, allowed):
    (allowed / "dangling").symlink_to(allowed / "none")
    assert "does not exist" in refused(images, ref(allowed / "none"))
    assert "does not exist" in refused(images, ref(allowed / "dangling"))
    assert "does not exist" in refused(images, ref(allowed / "none/below"))


def test_what_is_no_disk_is_refused(images, allowed):
    (allowed / "directory").mkdir()
    os.mkfifo(allowed / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(allowed / "socket"))
    for kind in ("directory", "fifo", "socket"):
        assert kind in refused(images, ref(allowed / kind, "raw"))


def test_a_device_that_is_no_disk_is_refused():
    images = PathImages(LocalPrivileged(call_deadline_s=20, kvm_probe_s=10), ["/dev"])
    assert "char" in refused(images, ref("/dev/null", "raw"))


def test_another_format_than_was_said_is_refused(images, allowed):
    assert "qcow2" in refused(images, ref(create(allowed / "a", "-f", "raw")))


def test_a_chain_inside_is_fine(images, allowed):
    base = create(allowed / "base", "-f", "raw")
    middle = create(allowed / "middle", "-f", "qcow2", "-b", "base", "-F", "raw")
    top = create(allowed / "top", "-f", "qcow2", "-b", str(middle), "-F", "qcow2")
    assert images.prepare(ref(top)) == Location(str(top))
    base.unlink()
    assert "base" in refused(images, ref(top))


def test_a_chain_that_leads_outside_is_refused(images, allowed, outside):
    create(outside / "base", "-f", "raw")
    middle = create(allowed / "middle", "-f", "qcow2", "-b", str(outside / "base"), "-F", "raw")
    top = create(allowed / "top", "-f", "qcow2", "-b", str(middle), "-F", "qcow2")
    assert "outside" in refused(images, ref(middle))
    assert "outside" in refused(images, ref(top))
    assert "outside" in refused(
        images, ref(create(allowed / "up", "-f", "qcow2", "-b", "../outside/base", "-F", "raw"))
    )


@pytest.mark.parametrize("name", ["nbd://127.0.0.1:1/x", 'json:{"driver":"file","filename":"/etc/shadow"}'])
def test_a_chain_that_leaves_the_file_system_is_refused(images, allowed, name):
    top = allowed / "top"
    subprocess.run(
        ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw", top, "4M"], check=True, timeout=30
    )
    assert "absolute path" in refused(images, ref(top))


def test_a_data_file_outside_is_refused(images, allowed, outside):
    create(allowed / "a", "-f", "qcow2", "-o", f"data_file={outside / 'data'}")
    assert "outside" in refused(images, ref(allowed / "a"))


def test_a_kernel_is_a_file(images, allowed):
    path = create(allowed / "kernel", "-f", "raw")
    assert images.prepare(ref(path, None)) == Location(str(path))
    (allowed / "below").mkdir()
    assert "directory" in refused(images, ref(allowed / "below", None))
