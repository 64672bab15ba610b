"""Transfers without programs: which urls a ticket may have, what qemu-nbd is told, pieces, journals, checksums."""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import uuid
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdscli.failures import CliError
from vdscli.transfer import checksum, pieces, source
from vdscli.transfer.moves import is_zero
from vdscli.transfer.pieces import Journal, Piece
from vdscli.transfer.pipeline import Pipeline, Workers
from vdscli.transfer.wire import Extent
from vdsm.api.transfer import ImageTicket, NbdConfig
from vdsm.base.errors import BadParameter
from vdsm.services.storage_gates import Gates
from vdsm.services.transfers import NbdService, TicketService
from vdsm.storage.errors import SharedVolume
from vdsm.system.qemu_nbd import Export, Layer, command
from vdsm.transfers.errors import ImageDaemonRefused
from vdsm.transfers.imageio_daemon import DaemonSettings, configuration
from vdsm.transfers.nbd_servers import NbdServers, ServedVolume
from vdsm.transfers.places import Places, check_id
from vdsm.transfers.tickets import Tickets

D, IMG, V = (str(uuid.UUID(int=number)) for number in (1, 2, 3))
PLACES = Places("/rhev/data-center", "/run/vdsm/storage", ("/run/vdsm/nbd", "/run/vdsm/backup"))
MIB = 1 << 20


class TestPlaces:
    @pytest.mark.parametrize(
        "url",
        [
            f"file:///rhev/data-center/{D}/{D}/images/{IMG}/{V}",
            f"file:///rhev/data-center/mnt/server:_export_a b/{D}/images/{IMG}/{V}",
            f"file:///rhev/data-center/mnt/glusterSD/server:_vol/{D}/images/{IMG}/{V}",
            f"file:///run/vdsm/storage/{D}/{IMG}/{V}",
            f"nbd:unix:/run/vdsm/nbd/{V}.sock",
            f"nbd:unix:/run/vdsm/backup/{V}:exportname=sda",
        ],
    )
    def test_images_may_be_transferred(self, url: str):
        PLACES.check(url, "url")

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "file:///etc/shadow",
            f"file://host/rhev/data-center/{D}/{D}/images/{IMG}/{V}",
            f"file:/run/vdsm/storage/{D}/{IMG}/{V}",
            f"file:///run/vdsm/storage/{D}/{IMG}/{V}/x",
            f"file:///run/vdsm/storage/{D}/{IMG}/{V}.lease",
            f"file:///run/vdsm/storage/../storage/{D}/{IMG}/{V}",
            f"file:///run/vdsm/storage//{D}/{IMG}/{V}",
            f"file:///run/vdsm/storage2/{D}/{IMG}/{V}",
            f"file:///run/vdsm/storage/{D}/{IMG}/{V}?x",
            f"file:///run/vdsm/storage/{D}/{IMG}/{V}#x",
            f"file:///rhev/data-center/mnt/a/../../etc/{D}/images/{IMG}/{V}",
            f"file:///rhev/data-center/mnt/a/{D}/dom_md/{IMG}/{V}",
            f"file:///rhev/data-center/mnt/a\0/{D}/images/{IMG}/{V}",
            "nbd:unix:/run/vdsm/vdsm.sock",
            "nbd:unix:/run/vdsm/nbd/../svdsm.sock",
            "nbd:unix:/run/vdsm/nbd/",
            "nbd:unix:run/vdsm/nbd/x",
            f"nbd:unix:/run/vdsm/nbd/{V}.sock:exportname=/x",
            "nbd:localhost:10809",
            "https://elsewhere/images/x",
            "x" * 10_000,
        ],
    )
    def test_nothing_else(self, url: str):
        with pytest.raises(BadParameter) as caught:
            PLACES.check(url, "ticket.url")
        assert caught.value.field == "ticket.url"

    @given(st.text())
    def test_any_text_is_judged(self, text: str):
        with pytest.raises(BadParameter):
            PLACES.check(f"file:///{text}", "url")

    def test_ids_are_lower_case_in_the_end(self):
        assert check_id("ABCDEF00-0000-0000-0000-000000000000", "x") == "abcdef00-0000-0000-0000-000000000000"
        for bad in ("", "..", "/etc", V + "/x", V + "\n"):
            with pytest.raises(BadParameter):
                check_id(bad, "x")


class TestVerbs:
    @pytest.fixture
    def tickets(self, tmp_path: Path) -> TicketService:
        return TicketService(Tickets(DaemonSettings(directory=tmp_path / "imageio")), PLACES)

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"uuid": "../x"}, "ticket.uuid"),
            ({"url": "file:///etc/shadow"}, "ticket.url"),
            ({"ops": ()}, "ticket.ops"),
            ({"filename": "a\r\nSet-Cookie: b"}, "ticket.filename"),
        ],
    )
    def test_a_wrong_field_is_named(self, tickets: TicketService, change: dict[str, object], field: str):
        good = {"uuid": V, "timeout": 1, "size": 1, "url": f"nbd:unix:/run/vdsm/nbd/{V}", "ops": ("read",)}
        with pytest.raises(BadParameter) as caught:
            tickets.add_image_ticket(ImageTicket(**{**good, **change}))
        assert caught.value.field == field

    def test_an_answer_that_is_none_is_refused(self, tickets: TicketService, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(Tickets, "get", lambda *_: {"uuid": V})
        with pytest.raises(ImageDaemonRefused):
            tickets.get_image_ticket(V)

    def test_seconds_fit_the_engine_s_integers(self, tickets: TicketService, monkeypatch: pytest.MonkeyPatch):
        found = {
            "uuid": V, "size": 1 << 50, "url": "x", "timeout": 1 << 40, "ops": ["read"], "active": True,
            "idle_time": -1, "expires": 1 << 40, "transferred": 1 << 50, "unknown": 1,
        }  # fmt: skip
        monkeypatch.setattr(Tickets, "get", lambda *_: dict(found))
        info = tickets.get_image_ticket(V)
        assert (info.timeout, info.idle_time, info.expires) == (2**31 - 1, 0, 2**31 - 1)
        assert info.transferred == info.size == 1 << 50

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"sd_id": "x"}, "config.sd_id"),
            ({"img_id": ""}, "config.img_id"),
            ({"vol_id": "../x"}, "config.vol_id"),
            ({"bitmap": "x", "readonly": True}, "config.bitmap"),
            ({"bitmap": V}, "config.bitmap"),
            ({"bitmap": V, "readonly": True, "backing_chain": False}, "config.bitmap"),
            ({"bitmap": V, "readonly": True}, "config.bitmap"),
        ],
    )
    def test_a_wrong_server_is_named(self, tmp_path: Path, change: dict[str, object], field: str):
        with pytest.raises(BadParameter) as caught:
            servers(tmp_path).start_server(V, NbdConfig(**{"sd_id": D, "img_id": IMG, "vol_id": V, **change}))
        assert caught.value.field == field

    def test_a_template_is_not_written(self, tmp_path: Path):
        with pytest.raises(SharedVolume):
            servers(tmp_path).start_server(V, NbdConfig(sd_id=D, img_id=IMG, vol_id=V))
        with pytest.raises(BadParameter):
            servers(tmp_path).start_server("../../x", NbdConfig(sd_id=D, img_id=IMG, vol_id=V, readonly=True))


class _Template:
    def paths(self, *_: str) -> ServedVolume:
        return ServedVolume((Layer("/x", "raw"),), shared=True)


def servers(place: Path) -> NbdService:
    return NbdService(NbdServers(place / "nbd"), _Template(), Gates(1))


class TestPrograms:
    def test_qemu_nbd_opens_what_it_is_told(self):
        chain = (Layer("/a,b", "qcow2"), Layer("/dev/x", "qcow2", is_block=True), Layer("/base", "raw"))
        words = command(Export(chain=chain, discard=True, detect_zeroes=True), Path("/s"), direct=True)
        assert words[:-1] == [
            "qemu-nbd", "--socket=/s", "--persistent", "--shared=8", "--export-name=", "--cache=none", "--aio=native",
            "--discard=unmap", "--detect-zeroes=unmap",
        ]  # fmt: skip
        assert json.loads(words[-1].removeprefix("json:")) == {
            "driver": "qcow2",
            "file": {"driver": "file", "filename": "/a,b"},
            "backing": {
                "driver": "qcow2",
                "file": {"driver": "host_device", "filename": "/dev/x"},
                "backing": {"driver": "raw", "file": {"driver": "file", "filename": "/base"}},
            },
        }

    def test_a_leaf_alone_has_no_backing(self):
        leaf = (Layer("/leaf", "qcow2"),)
        words = command(Export(chain=leaf, readonly=True, discard=True, bitmap=V), Path("/s"), direct=False)
        assert words[5:-1] == ["--cache=writeback", "--aio=threads", "--read-only", f"--bitmap={V}"]
        assert json.loads(words[-1].removeprefix("json:"))["backing"] is None

    def test_the_daemon_s_configuration(self, tmp_path: Path):
        parser = configparser.RawConfigParser()
        settings = DaemonSettings(directory=tmp_path, pki_dir=Path("/pki"), log_file=Path("/log/imageio.log"))
        parser.read_string(configuration(settings))
        assert parser.get("tls", "key_file") == "/pki/keys/vdsmkey.pem"
        assert parser.getboolean("tls", "enable")
        assert parser.get("remote", "port") == "54322"
        assert parser.get("control", "socket") == str(tmp_path / "control.sock")
        assert parser.get("handler_logfile", "args") == "('/log/imageio.log',)"
        parser.read_string(configuration(DaemonSettings(directory=tmp_path)))
        assert not parser.getboolean("tls", "enable")
        assert parser.get("handlers", "keys") == "stderr"


class TestPieces:
    @given(st.lists(st.tuples(st.integers(1, 40 * MIB), st.booleans()), max_size=12))
    def test_all_data_is_in_pieces(self, lengths: list[tuple[int, bool]]):
        extents, position = [], 0
        for length, zero in lengths:
            extents.append(Extent(position, length, zero))
            position += length
        found = pieces.of_extents(extents)
        assert all(0 < piece.length <= pieces.PIECE and not piece.zero for piece in found)
        assert all(first.offset + first.length <= second.offset for first, second in pairwise(found))
        for extent in extents:
            inside = sum(overlap(extent, piece) for piece in found)
            assert inside < MIB if extent.zero else inside == extent.length

    def test_a_file_is_covered_to_its_size(self, tmp_path: Path):
        path = tmp_path / "disk"
        with path.open("wb") as file:
            file.seek(20 * MIB)
            file.write(b"x" * MIB)
        found = pieces.of_file(str(path), 30 * MIB)
        assert found[0].offset == 0
        assert sum(piece.length for piece in found) == 30 * MIB
        assert found[-1].offset + found[-1].length == 30 * MIB
        assert found[-1].zero

    def test_a_journal_knows_what_is_done_of_what(self, tmp_path: Path):
        every = [Piece(0, 5, zero=False), Piece(5, 5, zero=True)]
        journal = Journal(tmp_path / "deep" / "j", {"a": 1})
        assert not journal.begun
        journal.note(every[:1])
        assert Journal(tmp_path / "deep" / "j", {"a": 1}).left(every) == every[1:]
        assert Journal(tmp_path / "deep" / "j", {"a": 2}).left(every) == every
        for damaged in (
            b"",
            b"[]",
            b"{",
            b'{"version":1,"subject":{"a":1},"done":[1]}',
            b'{"version":1,"subject":{"a":1}}',
        ):
            (tmp_path / "deep" / "j").write_bytes(damaged)
            assert not Journal(tmp_path / "deep" / "j", {"a": 1}).begun
        journal.remove()
        assert list((tmp_path / "deep").iterdir()) == []

    def test_a_failing_stage_ends_the_pipeline(self):
        class Good:
            def handle(self, piece: Piece, buffer: memoryview) -> None:
                buffer[:] = bytes([piece.offset % 256]) * len(buffer)

            def close(self) -> None:
                pass

        class Bad(Good):
            def handle(self, piece: Piece, buffer: memoryview) -> None:
                assert bytes(buffer) == bytes([piece.offset % 256]) * piece.length
                if piece.offset == 70:
                    raise CliError("no more")

        every = [Piece(offset, 10, zero=False) for offset in range(0, 100, 10)]
        done: list[Piece] = []
        with pytest.raises(CliError, match="no more"):
            Pipeline(every, Workers(2, Good), Workers(2, Bad)).run(done.extend)
        assert Piece(70, 10, zero=False) not in done
        done.clear()
        Pipeline(every[:7], Workers(2, Good), Workers(2, Bad)).run(done.extend)
        assert sorted(done) == every[:7]


def overlap(extent: Extent, piece: Piece) -> int:
    start, end = max(extent.start, piece.offset), min(extent.start + extent.length, piece.offset + piece.length)
    return max(0, end - start)


class TestFiles:
    @pytest.mark.parametrize("length", [1, checksum.BLOCK, checksum.BLOCK + 1, 3 * checksum.BLOCK - 7])
    def test_the_checksum_is_that_of_the_blocks_digests(self, tmp_path: Path, length: int):
        path = tmp_path / "disk"
        path.write_bytes(os.urandom(length))
        os.truncate(path, length + 2 * checksum.BLOCK)
        size = length + 3 * checksum.BLOCK
        data = path.read_bytes() + bytes(size - path.stat().st_size)
        parts = [data[start : start + checksum.BLOCK] for start in range(0, size, checksum.BLOCK)]
        digests = b"".join(hashlib.blake2b(part, digest_size=32).digest() for part in parts)
        assert checksum.of_file(str(path), size) == hashlib.blake2b(digests, digest_size=32).hexdigest()

    def test_zeros_are_known(self):
        assert is_zero(memoryview(bytes(5000)))
        assert not is_zero(memoryview(bytes(4999) + b"x"))
        assert not is_zero(memoryview(b"x" + bytes(4999)))

    def test_what_a_source_is(self, tmp_path: Path):
        raw = tmp_path / "raw"
        raw.write_bytes(b"x" * 5000)
        found = source.look(str(raw))
        assert (found.format, found.length, found.volume_size) == ("raw", 5000, 8192)
        for name, content in (("empty", b""), ("cut", b"QFI\xfb\0\0\0\3")):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(CliError):
                source.look(str(tmp_path / name))
        with pytest.raises(CliError, match="not a regular file"):
            source.look("/dev/null")
