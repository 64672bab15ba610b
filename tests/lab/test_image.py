"""What is built is found again, and built anew when what it is made from changes."""

from __future__ import annotations

import pytest

from . import acceleration
from .image import build, definition


def test_stage_is_made_once_and_whole_or_not_at_all(tmp_path) -> None:
    made = []

    def make(place, _cache) -> None:
        made.append(place)
        (place / "file").write_text("whole")

    def fail(place, _cache) -> None:
        (place / "file").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        build.stage(tmp_path, "root", "one", fail, print)
    assert not list(tmp_path.iterdir())
    first = build.stage(tmp_path, "root", "one", make, print)
    assert build.stage(tmp_path, "root", "one", make, print) == first
    assert len(made) == 1
    assert (first / "file").read_text() == "whole"
    second = build.stage(tmp_path, "root", "two", make, print)
    assert list(tmp_path.iterdir()) == [second]


def test_every_part_of_the_definition_changes_the_key(monkeypatch, tmp_path) -> None:
    keys = {build.root_key()}
    monkeypatch.setattr(definition, "PACKAGES", (*definition.PACKAGES, "hello"))
    keys.add(build.root_key())
    monkeypatch.setattr(definition, "SUITE", "trixie")
    keys.add(build.root_key())
    assert len(keys) == 3
    agent = tmp_path / "agent"
    agent.mkdir()
    (agent / "agent.py").write_text("one")
    monkeypatch.setattr(build, "AGENT", agent)
    before = build.boot_key()
    assert before == build.boot_key()
    (agent / "agent.py").write_text("two")
    assert before != build.boot_key()


def test_kvm_is_tried_once_and_remembered(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("VDSM_LAB_ACCEL", raising=False)
    device = tmp_path / "kvm"
    tries = []

    def boots() -> bool:
        tries.append(1)
        return False

    assert acceleration.choose(tmp_path, boots, device) == "tcg"  # no device: not even tried
    assert not tries
    device.touch()
    assert acceleration.choose(tmp_path, boots, device) == "tcg"
    assert acceleration.choose(tmp_path, boots, device) == "tcg"
    assert len(tries) == 1
    (tmp_path / "accelerator.json").unlink()
    assert acceleration.choose(tmp_path, lambda: True, device) == "kvm"
    assert acceleration.choose(tmp_path, boots, device) == "kvm"
