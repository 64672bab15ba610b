"""The kernel's list of locks."""

from __future__ import annotations

import os

from vdsm.system.filelocks import FileNumber, opened_by_qemu, parse_locks

TEXT = """\
1: POSIX  ADVISORY  WRITE 812 00:19:1157 0 EOF
2: OFDLCK ADVISORY  READ  -1 fd:01:131074 100 101
2: OFDLCK ADVISORY  READ  -1 fd:01:131074 201 201
3: OFDLCK ADVISORY  WRITE -1 08:01:7 0 EOF
3: -> OFDLCK ADVISORY  WRITE -1 08:01:8 103 103
4: FLOCK  ADVISORY  WRITE 55 00:19:100 100 100
5: OFDLCK ADVISORY  READ  -1 rubbish 100 100
6: OFDLCK
"""


def test_qemu_s_locks_tell_its_files() -> None:
    assert parse_locks(TEXT) == {FileNumber(0xFD, 1, 131074)}
    assert parse_locks("") == frozenset()


def test_number_is_made_of_what_stat_says() -> None:
    assert FileNumber.of(os.makedev(0xFD, 1), 131074) in parse_locks(TEXT)


def test_kernel_tells() -> None:
    assert isinstance(opened_by_qemu(), frozenset)
