"""The store of bearer tokens."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vdsm.api.contract import Role
from vdsm.base.errors import AlreadyExists, Failed, NotFound, Unauthenticated, WrongState
from vdsm.bindings.peers import Way
from vdsm.bindings.tokens import token_caller
from vdsm.services import tokens
from vdsm.services.tokens import TokenService

_BAD_HASH = json.dumps({
    "version": 1,
    "tokens": [{"name": "a", "role": "admin", "created": "2026-01-01T00:00:00Z", "expires": None, "sha256": "zz"}],
})


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 31, 12, 0, 0, 5, UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def test_a_token_is_known_by_its_secret_also_after_a_restart(path):
    made = TokenService(path, Clock()).create("ci", Role.OPERATOR)
    assert made.secret.startswith("vdsm_")
    assert len(made.secret) == 5 + 43
    service = TokenService(path, Clock())
    found = service.find(made.secret)
    assert found is not None
    assert (found.name, found.role, found.expires) == ("ci", Role.OPERATOR, None)
    assert found.created == "2026-01-31T12:00:00Z"
    assert service.list() == [found]


def test_the_file_is_private_and_holds_no_secret(path):
    made = TokenService(path).create("ci")
    assert path.stat().st_mode & 0o777 == 0o600
    assert made.secret.removeprefix("vdsm_") not in path.read_text()


def test_no_secret_is_logged(path, caplog):
    caplog.set_level("DEBUG")
    service = TokenService(path)
    secret = service.create("ci").secret
    service.find(secret)
    service.revoke("ci")
    assert caplog.text
    assert secret not in caplog.text
    assert secret not in repr(service.list())


@pytest.mark.parametrize(
    "change", [lambda s: s[:-1], lambda s: s + "A", lambda s: s.swapcase(), lambda s: "", lambda s: "\udc80"]
)
def test_other_secrets_are_worthless(path, change):
    service = TokenService(path)
    assert service.find(change(service.create("ci").secret)) is None


def test_the_whole_hash_counts(path):
    service = TokenService(path)
    secret = service.create("ci").secret
    file = json.loads(path.read_text())
    digest = file["tokens"][0]["sha256"]
    file["tokens"][0]["sha256"] = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    path.write_text(json.dumps(file))
    assert TokenService(path).find(secret) is None


def test_a_token_expires(path):
    clock = Clock()
    service = TokenService(path, clock)
    made = service.create("ci", Role.VIEWER, 2)
    assert made.expires == "2026-02-02T12:00:00Z"
    clock.now += timedelta(days=2, seconds=-1)
    assert service.find(made.secret) is not None
    clock.now += timedelta(seconds=1)
    assert service.find(made.secret) is None
    assert TokenService(path, clock).find(made.secret) is None


def test_a_revoked_token_is_worthless_at_once_and_for_good(path):
    service = TokenService(path)
    kept, gone = service.create("kept"), service.create("gone")
    service.revoke("gone")
    for each in (service, TokenService(path)):
        assert each.find(gone.secret) is None
        assert each.find(kept.secret) is not None
    with pytest.raises(NotFound):
        service.revoke("gone")


def test_a_name_is_there_once(path):
    service = TokenService(path)
    first = service.create("ci")
    with pytest.raises(AlreadyExists):
        service.create("ci", Role.ADMIN)
    assert service.find(first.secret).role is Role.VIEWER


def test_there_is_a_limit(path, monkeypatch):
    monkeypatch.setattr(tokens, "MAX_TOKENS", 2)
    service = TokenService(path)
    service.create("a")
    service.create("b")
    with pytest.raises(WrongState):
        service.create("c")


def test_many_at_once(path):
    service = TokenService(path)
    made = {}
    threads = [threading.Thread(target=lambda n=n: made.update({n: service.create(f"t{n}").secret})) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    again = TokenService(path)
    assert sorted(again.find(secret).name for secret in made.values()) == [f"t{n}" for n in range(8)]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"version": 2, "tokens": []}',
        '{"version": 1, "tokens": [{"name": "a"}]}',
        _BAD_HASH,
    ],
)
def test_a_broken_store_opens_nothing_and_is_not_overwritten(path, content):
    path.write_text(content)
    service = TokenService(path)
    assert service.find("vdsm_x") is None
    for call in (service.list, lambda: service.create("a"), lambda: service.revoke("a")):
        with pytest.raises(Failed, match=r"tokens\.json"):
            call()
    assert path.read_text() == content


def test_what_cannot_be_written_is_not_believed(path):
    service = TokenService(path.parent / "missing" / "tokens.json")
    with pytest.raises(Failed):
        service.create("ci")
    assert service.list() == []


def test_caller_of_a_header(path):
    service = TokenService(path)
    secret = service.create("ci", Role.OPERATOR).secret
    caller = token_caller(f"bearer  {secret} ", service)
    assert (caller.name, caller.role, caller.way) == ("ci", Role.OPERATOR, Way.TOKEN)
    for header in (secret, f"Basic {secret}", "Bearer", f"Bearer {secret}x"):
        with pytest.raises(Unauthenticated) as caught:
            token_caller(header, service)
        assert secret not in str(caught.value)
