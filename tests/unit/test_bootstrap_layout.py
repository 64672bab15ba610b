"""The bootstrap reads the agent's configuration file and has the agent's defaults; packaging files agree with both."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from vds_bootstrap import account, layout, setup
from vds_bootstrap.layout import BadConfig, Layout
from vdsm.base import config as agent_config

PROJECT = Path(__file__).resolve().parents[2]
PACKAGING = PROJECT / "packaging"


def of_agent(config: agent_config.Config) -> dict[str, object]:
    return {
        "run_dir": Path(config.paths.run_dir),
        "state_dir": Path(config.paths.state_dir),
        "log_dir": Path(config.paths.log_dir),
        "pki_dir": Path(config.paths.pki_dir),
        "user": config.users.user,
        "group": config.users.group,
        "port": config.listen.port,
        "libvirt_uri": config.libvirt.uri,
        "api_socket": config.api_socket,
        "supervdsm_socket": config.supervdsm_socket,
        "repository_dir": Path(config.storage.repository_dir),
    }


def of_bootstrap(place: Layout) -> dict[str, object]:
    return {name: getattr(place, name) for name in of_agent(agent_config.Config())}


def test_defaults_are_the_agents() -> None:
    assert of_bootstrap(Layout()) == of_agent(agent_config.Config())
    assert agent_config.DEFAULT_PATH == layout.DEFAULT_CONFIG


def test_same_file_means_the_same_to_both(tmp_path: Path) -> None:
    file = tmp_path / "vdsm.toml"
    file.write_text(
        '[paths]\nrun_dir = "/a"\nstate_dir = "/b"\nlog_dir = "/c"\npki_dir = "/d"\n'
        '[users]\nuser = "u"\ngroup = "g"\n[listen]\nport = 7\n[libvirt]\nuri = "test:///default"\n'
        '[storage]\nrepository_dir = "/e"\n'
    )
    read = layout.read(file)
    assert of_bootstrap(read) == of_agent(agent_config.load(file))
    assert read.config == file


def test_the_agent_may_use_the_disks_and_the_guest_where_setup_puts_them() -> None:
    allowed = {Path(name) for name in agent_config.Config().virt.disk_dirs}
    assert {Layout().images_dir, Layout().guest_dir} <= allowed


@pytest.mark.parametrize(
    ("text", "words"),
    [("[listen]\nport = 'x'\n", "listen.port must be int, is str"), ("[listen\n", "vdsm.toml")],
)
def test_bad_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "vdsm.toml"
    file.write_text(text)
    with pytest.raises(BadConfig, match=words):
        layout.read(file)


def test_absent_file_is_an_error_only_when_it_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"absent\.toml"):
        layout.read(tmp_path / "absent.toml")


def test_units_run_the_pair_as_the_right_users() -> None:
    def unit(name: str) -> configparser.SectionProxy:
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read(PACKAGING / "systemd" / name)
        return parser["Service"]

    agent, helper = unit("vdsmd.service"), unit("supervdsmd.service")
    assert (agent["User"], agent["Group"]) == (Layout().user, Layout().group)
    assert "User" not in helper
    assert set(account.COMPANY) == set(agent["SupplementaryGroups"].split())
    assert agent["RuntimeDirectory"] == Layout().run_dir.name
    # Each of these gives the helper mounts of its own, so that nobody else would see what it mounts.
    private = {"PrivateTmp", "PrivateMounts", "PrivateDevices", "ProtectSystem", "ProtectHome", "ProtectHostname"}
    private |= {"ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectControlGroups"}
    assert not private & set(helper)
    # A FUSE file system is a process of the helper's.
    assert helper["KillMode"] == "process"
    # A LOCALFS domain may be anywhere.
    assert agent["ProtectSystem"] == "full"


def test_packaged_directories_are_those_of_the_layout() -> None:
    lines = (PACKAGING / "tmpfiles.d" / "vdsm.conf").read_text().splitlines()
    listed = {Path(line.split()[1]) for line in lines if line.startswith("d ")}
    place = Layout()
    assert {place.run_dir, place.console_dir, place.state_dir, place.images_dir, place.log_dir} <= listed
    assert place.repository_dir in listed
    users = (PACKAGING / "sysusers.d" / "vdsm.conf").read_text()
    assert f"u {place.user} {account.UID}:{account.GID}" in users
    assert {f"m {place.user} {group}" for group in account.COMPANY} <= set(users.splitlines())
    sharing = (PACKAGING / "sysusers.d" / "vdsm-sanlock.conf").read_text().splitlines()
    assert {f"m {place.user} {account.SANLOCK}", f"m {account.SANLOCK} {place.group}"} <= set(sharing)


def test_packages_that_are_installed_are_those_that_have_a_reason() -> None:
    sections = (PROJECT / "docs" / "dependencies.md").read_text().split("\n## ")
    system = next(text for text in sections if text.startswith("Packages of the operating system"))
    tables = [
        {name for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(.*?)`", cell)}
        for table in system.split("|---|---|")[1:]
    ]
    installed, sharing, tests = tables
    assert installed == set(setup.PACKAGES)
    assert sharing == {"sanlock", "python3-sanlock", "libvirt-sanlock"}
    assert tests == set(setup.DEV_PACKAGES)
