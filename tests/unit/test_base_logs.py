"""base.logs and base.secrets: the line, its context, and that secrets do not get out."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import re
from typing import TYPE_CHECKING

import pytest

from vdsm.base import logs
from vdsm.base.logs import masked
from vdsm.base.secrets import MASK, Secret

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield logger
    for handler in set(logger.handlers) - set(handlers):
        handler.close()
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logging.captureWarnings(False)


SECRETS = [
    "password=hunter2",
    "password: hunter2",
    "password='hunter2 x'",
    '{"password": "hunter2"}',
    r'{"password": "a\"hunter2"}',
    "{'vncPassword': 'hunter2'}",
    '{"ticket":"hunter2","ttl":120}',
    "params={'ticket': 'hunter2', 'ttl': 120}",
    "otp=hunter2&x=1",
    "passwd='hunter2'",
    "<graphics type='vnc' passwd=\"hunter2\"/>",
    "<password>hunter2</password>",
    "<ticket>\nhunter2\n</ticket>",
    "Authorization: Bearer hunter2",
    "authorization: Basic hunter2",
    "token=hunter2",
    '"access_token": "hunter2"',
    "node.session.auth.password = hunter2",
    "PASSWORD=hunter2",
    'password="hunter2',
    "chap_secret=hunter2",
]


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_values_are_masked(text: str) -> None:
    assert "hunter2" not in masked(text)
    assert MASK in masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "VM.setTicket for 5fd4 took 0.1 s",
        "ticket expired",
        "password_length=8",
        "<vm name='secret-service'/>",
        "created VM a name=tokenring memory=512",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


def test_masking_long_junk_is_linear() -> None:
    # Would take minutes if the expression went back over what it has read.
    for junk in ("a" * 200_000, "password=" * 20_000, '"' * 200_000, "<password>" * 20_000, "a." * 100_000):
        masked(junk[: logs.MAX_RECORD])


def test_secret_does_not_print_itself() -> None:
    secret = Secret("hunter2")
    texts = [str(secret), repr(secret), f"{secret}", f"{secret:>30}", "%s %r" % (secret, secret), repr([secret])]  # noqa: UP031
    assert not any("hunter2" in text for text in texts)
    for serialize in (pickle.dumps, copy.deepcopy, json.dumps):
        with pytest.raises(TypeError):
            serialize(secret)
    assert secret.reveal() == "hunter2"


def test_secrets_compare_by_content() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert not Secret("")


def test_line_has_time_level_flow_logger_and_message(root: logging.Logger, tmp_path: Path) -> None:
    file = tmp_path / "logs" / "vdsm.log"
    logs.configure("INFO", file)
    token = logs.flow_id.set("f1")
    logging.getLogger("vdsm.x").info("set password=%s for %s", "hunter2", "vm")
    logs.flow_id.reset(token)
    logging.getLogger("vdsm.x").debug("not kept")
    try:
        raise ValueError("ticket='hunter2'")
    except ValueError:
        logging.getLogger("vdsm.y").exception("two\nlines")
    text = file.read_text()
    first, *rest = text.splitlines()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(rf"{stamp} INFO  \[f1\] vdsm\.x set password=\*+ for vm", first)
    assert re.fullmatch(rf"{stamp} ERROR \[\] vdsm\.y two", rest[0])
    # A message cannot forge a record: what follows a line end is indented.
    assert all(line.startswith("    ") for line in rest[1:])
    assert "hunter2" not in text


def test_log_file_is_reopened_after_rotation(root: logging.Logger, tmp_path: Path) -> None:
    file = tmp_path / "vdsm.log"
    logs.configure("INFO", file)
    logging.getLogger("x").info("first")
    file.rename(tmp_path / "vdsm.log.1")
    logging.getLogger("x").info("second")
    assert "second" in file.read_text()
    assert "second" not in (tmp_path / "vdsm.log.1").read_text()


def test_log_file_is_no_way_into_other_files(root: logging.Logger, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        logs.configure("INFO", tmp_path / "link")
    assert not (tmp_path / "target").exists()


def test_log_that_cannot_be_written_breaks_nobody(
    root: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "logs" / "a"
    logs.configure("INFO", file)
    file.unlink()
    file.parent.rmdir()
    logging.getLogger("x").info("nowhere to write")
    assert "Logging error" in capsys.readouterr().err
    file.parent.mkdir()
    logging.getLogger("x").info("again")
    assert "again" in file.read_text()


def test_configure_again_replaces_and_levels_can_be_changed(root: logging.Logger, tmp_path: Path) -> None:
    logs.configure("INFO", tmp_path / "a")
    logs.configure("ERROR", tmp_path / "b")
    logging.getLogger("x").warning("too quiet")
    logs.set_level("WARNING")
    logging.getLogger("x").warning("kept")
    assert "kept" in (tmp_path / "b").read_text()
    assert "too quiet" not in (tmp_path / "b").read_text()
    assert (tmp_path / "a").read_text() == ""


def test_huge_record_is_cut(root: logging.Logger, tmp_path: Path) -> None:
    logs.configure("INFO", tmp_path / "a")
    logging.getLogger("x").info("y" * 1_000_000)
    assert (tmp_path / "a").stat().st_size < 2 * logs.MAX_RECORD
