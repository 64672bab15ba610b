"""Readers of files that others write: qcow2 headers, SMBIOS in sysfs, the iSCSI initiator's name, frames."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.base.errors import BadParameter, Failed, VdsmError
from vdsm.privileged.frames import ErrorBody, FrameBuffer, decode_error, frame
from vdsm.system import dmi, iscsi, paths, qemu_img

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def refusal(function: Callable[..., object], *args: object) -> BadParameter | None:
    """What the function refuses its arguments with; any other error is the test's failure."""
    try:
        function(*args)
    except BadParameter as error:
        return error
    return None


def qcow2(
    *, backing: bytes = b"", extensions: list[tuple[int, bytes]] | None = None, features: int = 0, size: int = 1 << 20
) -> bytes:
    """A version 3 header as QEMU writes it: extensions first, the backing file's name after them."""
    body = b""
    for kind, data in extensions or []:
        body += struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)
    body += bytes(8)
    offset = 104 + len(body) if backing else 0
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", 3, offset, len(backing), 16, size).ljust(72, b"\0")
    return head + struct.pack(">QQQII", features, 0, 0, 4, 104) + body + backing


def test_header_is_taken_apart() -> None:
    header = qcow2(backing=b"base.raw", extensions=[(0x1234, b"unknown"), (0xE2792ACA, b"raw")], size=5 << 20)
    assert qemu_img.parse_header(header + bytes(1000)) == qemu_img.Header(5 << 20, "base.raw", "raw", None)


def test_data_file_counts_only_with_its_feature() -> None:
    extensions = [(0x44415441, b'json:{"driver": "file"}')]
    assert qemu_img.parse_header(qcow2(extensions=extensions, features=4)).data_file == 'json:{"driver": "file"}'
    assert qemu_img.parse_header(qcow2(extensions=extensions)).data_file is None
    # The feature without a name is still a data file, one that nobody can name.
    assert qemu_img.parse_header(qcow2(features=4)).data_file == ""


@pytest.mark.parametrize(
    "header",
    [
        qcow2()[:71],
        qcow2()[:100],
        qcow2().replace(b"\0\0\0\x03", b"\0\0\0\x09", 1),
        qcow2(backing=b"x" * 1024),
        qcow2(backing=b"base")[:-1],
        qcow2(extensions=[(1, b"x" * 40)])[:120],
        qcow2(backing=b"\xff"),
    ],
)
def test_damaged_headers_are_refused(header: bytes) -> None:
    with pytest.raises(BadParameter) as caught:
        qemu_img.parse_header(header)
    assert caught.value.field == "format"


@given(st.binary(max_size=300), st.integers(0, 200))
def test_no_header_makes_the_parser_fail_otherwise(junk: bytes, at: int) -> None:
    header = bytearray(qcow2(backing=b"base.raw", extensions=[(0xE2792ACA, b"raw")]))
    header[at : at + len(junk)] = junk
    refused = refusal(qemu_img.parse_header, bytes(header))
    assert refused is None or refused.field == "format"


def sysfs(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        (folder / name).write_text(content + "\n")
    return folder


def test_firmwares_identity_is_given_as_it_stands(tmp_path: Path) -> None:
    found = dmi.read(
        sysfs(
            tmp_path,
            sys_vendor="Dell Inc.",
            product_name="PowerEdge R640",
            product_version="Not Specified",
            product_serial="8XK2",
            product_uuid="4C4C4544-0042-3510-8051-B8C04F4D4E32",
            product_family="PowerEdge",
        ),
        tmp_path / "none",
    )
    assert found == dmi.Identity(
        manufacturer="Dell Inc.",
        product="PowerEdge R640",
        version="unknown",
        serial="8XK2",
        uuid="4c4c4544-0042-3510-8051-b8c04f4d4e32",
        family="PowerEdge",
        uuid_source="firmware",
    )


@pytest.mark.parametrize(
    "uuid", ["", "03000200-0400-0500-0006-000700080009", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "x"]
)
def test_nothing_known_is_unknown_and_not_invented(tmp_path: Path, uuid: str) -> None:
    found = dmi.read(sysfs(tmp_path, product_uuid=uuid, sys_vendor="To be filled by O.E.M."), tmp_path / "none")
    assert found == dmi.Identity(*["unknown"] * 6, uuid_source="unknown")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("InitiatorName=iqn.1993-08.org.debian:01:abc\n", "iqn.1993-08.org.debian:01:abc"),
        ("## comment\n#InitiatorName=no\n  InitiatorName= iqn.x \nInitiatorAlias=y\n", "iqn.x"),
        ("GenerateName=yes\n", ""),
        ("", ""),
    ],
)
def test_initiator_name(tmp_path: Path, text: str, name: str) -> None:
    file = tmp_path / "initiatorname.iscsi"
    file.write_text(text)
    assert iscsi.initiator_name(file) == name


def test_host_without_iscsi_has_no_name(tmp_path: Path) -> None:
    assert iscsi.initiator_name(tmp_path / "none") == ""


@given(st.text())
def test_only_absolute_paths_pass(path: str) -> None:
    refused = refusal(paths.check, path, "disks[0].path")
    assert refused.field == "disks[0].path" if refused else path.startswith("/") and "\0" not in path


@given(st.binary(max_size=100), st.integers(1, 7))
def test_frames_come_out_as_they_went_in_however_they_are_cut(body: bytes, step: int) -> None:
    data = frame(body)
    buffer = FrameBuffer(100)
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    assert [buffer.feed(piece) for piece in pieces] == [None] * (len(pieces) - 1) + [body]


def test_too_long_frame_is_refused_by_its_length_alone() -> None:
    with pytest.raises(BadParameter, match="has 101 bytes, at most 100"):
        FrameBuffer(100).feed(frame(bytes(101))[:4])


@given(st.text(), st.dictionaries(st.text(), st.one_of(st.none(), st.integers(), st.text())))
def test_whatever_comes_as_an_error_is_an_error(kind: str, facts: dict[str, str | int | float | None]) -> None:
    assert isinstance(decode_error(ErrorBody(kind, facts)), VdsmError)
    assert isinstance(decode_error(ErrorBody("BadParameter", facts | {"more": 1})), Failed)
