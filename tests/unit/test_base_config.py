"""base.config: defaults, refusals that name the option, and the round trip through show."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from vdsm.base import config
from vdsm.base.config import Config, parse, show
from vdsm.base.errors import BadParameter


def test_nothing_configured_is_the_default() -> None:
    assert parse("") == Config()
    assert Config().supervdsm_socket == Path("/run/vdsm/svdsm.sock")
    assert Config().api_socket == Path("/run/vdsm/vdsm.sock")


def test_options_override_their_defaults_only() -> None:
    made = parse("[virt]\ncheap_interval_s = 1\ndisk_dirs = ['/a', '/b']\n[paths]\nlog_dir = ''")
    assert made.virt.cheap_interval_s == 1.0
    assert made.virt.disk_dirs == ("/a", "/b")
    assert made.virt.monitor_interval_s == Config().virt.monitor_interval_s
    assert made.log_file("vdsmd") is None
    assert Config().image_links == "/run/vdsm/storage"
    assert parse("[paths]\nrun_dir = '/r'").image_links == "/r/storage"
    assert parse("[storage]\nimage_link_dir = '/l'\nnfs_version = '4.1'").image_links == "/l"
    assert Config().log_file("vdsmd") == Path("/var/log/vdsm/vdsmd.log")


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("[virt]\nmax_vcpu = 1", "virt.max_vcpu"),
        ("[vrit]\n", "vrit"),
        ("[virt]\nmax_vcpus = '4'", "virt.max_vcpus"),
        ("[virt]\nmax_vcpus = 0", "virt.max_vcpus"),
        ("[virt]\nmax_vcpus = 1.5", "virt.max_vcpus"),
        ("[virt]\ndomain_type = 'xen'", "virt.domain_type"),
        ("[virt]\ndisk_dirs = '/a'", "virt.disk_dirs"),
        ("virt = 3", "virt"),
        ("[listen]\nport = 70000", "listen.port"),
        ("[listen]\ntls = 'no'", "listen.tls"),
        ("[log]\nlevel = 'LOUD'", "log.level"),
        ("[supervdsm]\ncall_deadline_s = -1", "supervdsm.call_deadline_s"),
        ("[storage]\nrepository_dir = 'rhev'", "storage.repository_dir"),
        ("[storage]\nrepository_dir = '/rhev/'", "storage.repository_dir"),
        ("[storage]\nmount_deadline_s = 0", "storage.mount_deadline_s"),
        ("[storage]\nsanlock_io_timeout_s = 61", "storage.sanlock_io_timeout_s"),
        ("[storage]\nnfs_version = '2'", "storage.nfs_version"),
        ("[storage]\nnfs_version = '3,suid'", "storage.nfs_version"),
        ("[storage]\nnfs_retrans = -1", "storage.nfs_retrans"),
        ("[storage]\nfuse_types = 'glusterfs'", "storage.fuse_types"),
        ("[storage]\ntasks = 0", "storage.tasks"),
        ("[virt", "config"),
    ],
)
def test_bad_option_is_named(text: str, option: str) -> None:
    with pytest.raises(BadParameter) as caught:
        parse(text)
    assert caught.value.field.startswith(option)


def test_shown_configuration_reads_back() -> None:
    made = parse('[users]\nuser = "a\\"b"\n[virt]\ndisk_dirs = []\nmax_vcpus = 3')
    assert parse(show(made)) == made


def test_every_option_has_a_sentence() -> None:
    lines = show(Config()).splitlines()
    options = [number for number, line in enumerate(lines) if line and line[0] not in "#["]
    assert len(options) == sum(len(fields(getattr(Config(), section.name))) for section in fields(Config))
    assert all(lines[number - 1].startswith("# ") and lines[number - 1].endswith(".") for number in options)


def test_file_may_be_absent_unless_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "none")
    assert config.load() == Config()
    with pytest.raises(BadParameter, match="there is no file"):
        config.load(tmp_path / "none")


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff\xfe")
    with pytest.raises(BadParameter):
        config.load(tmp_path / "a")


def test_configuration_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().virt.max_vcpus = 3  # type: ignore[misc]
