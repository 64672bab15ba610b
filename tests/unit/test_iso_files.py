"""The files of ISO domains: regular files with sane names, by pattern."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from domain_parts import Place, registry, request
from vdsm.base.errors import VdsmError
from vdsm.storage.domains import iso_files
from vdsm.storage.domains.domain import Domain
from vdsm.storage.domains.domain_errors import NoFileList
from vdsm.storage.errors import InvalidParameter, StorageFailed
from vdsm.storage.kinds import DomainClass


@pytest.fixture
def domain(tmp_path: Path) -> Domain:
    place = Place.of(tmp_path / "iso")
    return registry([place]).create(request(place, domain_class=DomainClass.ISO))


@pytest.fixture
def media(domain: Domain) -> Path:
    path = Path(iso_files.directory(domain))
    for name, size in (("Debian.iso", 4096), ("debian.ISO", 1), ("floppy.vfd", 2), ("ünï [1].iso", 3), ("-x.iso", 0)):
        (path / name).write_bytes(bytes(size))
        (path / name).chmod(0o644)
        os.utime(path / name, (1_700_000_000.9, 1_700_000_000.9))
    return path


def test_isos_are_listed_in_any_case(domain: Domain, media: Path) -> None:
    assert iso_files.iso_list(domain) == ["-x.iso", "Debian.iso", "debian.ISO", "ünï [1].iso"]
    assert iso_files.iso_list(domain, "vfd") == ["floppy.vfd"]


@pytest.mark.parametrize(
    ("pattern", "case_sensitive", "names"),
    [
        ("*", False, {"Debian.iso", "debian.ISO", "floppy.vfd", "ünï [1].iso", "-x.iso"}),
        ("debian.*", True, {"debian.ISO"}),
        ("debian.*", False, {"debian.ISO", "Debian.iso"}),
        ("*[[]1]*", True, {"ünï [1].iso"}),
        ("?loppy.vfd", True, {"floppy.vfd"}),
        ("", False, set()),
        ("nothing", False, set()),
        ("[", False, set()),
    ],
)
def test_files_are_chosen_by_pattern(
    domain: Domain, media: Path, pattern: str, case_sensitive: bool, names: set[str]
) -> None:
    assert set(iso_files.file_stats(domain, pattern, case_sensitive=case_sensitive)) == names


def test_file_has_its_size_time_and_whether_vms_may_read_it(domain: Domain, media: Path) -> None:
    (media / "floppy.vfd").chmod(0o600)
    found = iso_files.file_stats(domain)
    assert found["Debian.iso"] == iso_files.IsoFile(iso_files.READABLE, 4096, 1_700_000_000)
    assert found["floppy.vfd"] == iso_files.IsoFile(iso_files.UNREADABLE, 2, 1_700_000_000)


def test_only_regular_files_with_sane_names_are_named(domain: Domain, media: Path) -> None:
    (media / "link.iso").symlink_to("/etc/passwd")
    (media / "directory.iso").mkdir()
    (media / "directory.iso" / "below.iso").touch()
    os.mkfifo(media / "pipe.iso")
    (media / "new\nline.iso").touch()
    (media / "\x1b[31mred.iso").touch()
    os.close(os.open(os.fsencode(media) + b"/\xff.iso", os.O_CREAT))
    assert iso_files.iso_list(domain) == ["-x.iso", "Debian.iso", "debian.ISO", "ünï [1].iso"]


@pytest.mark.parametrize("pattern", ["../*", "a/b", "x" * 256, "a\0b"])
def test_wrong_pattern_is_refused(domain: Domain, pattern: str) -> None:
    with pytest.raises(InvalidParameter):
        iso_files.file_stats(domain, pattern)


def test_pattern_that_takes_long_on_others_ends(domain: Domain, media: Path) -> None:
    (media / ("a" * 200)).touch()
    assert iso_files.file_stats(domain, "*a" * 100 + "b") == {}


def test_other_domains_have_no_files(tmp_path: Path) -> None:
    place = Place.of(tmp_path / "data")
    data = registry([place]).create(request(place))
    for call in (iso_files.iso_list, iso_files.file_stats):
        with pytest.raises(NoFileList) as refused:
            call(data)
        assert refused.value.code == 330


def test_domain_without_its_directory_is_a_clear_error(domain: Domain) -> None:
    Path(iso_files.directory(domain)).rmdir()
    with pytest.raises(StorageFailed) as failed:
        iso_files.iso_list(domain)
    assert isinstance(failed.value, VdsmError)
