"""Task directories, against those in the original's sample."""

from __future__ import annotations

import lzma
import tarfile
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_domains import SAMPLE
from vdsm.storage.errors import Damaged, InvalidParameter
from vdsm.storage.formats.tasks import (
    Inheritance,
    Job,
    Outcome,
    Rollback,
    RollbackKind,
    TaskRecord,
    TaskState,
    decode_task,
    encode_task,
)

END = "1001-4000-8000-0000000010ca"
TASK = "4d0daf0a-377d-4a37-a2f7-fb8fbda20b20"
RECOVERED = "442f0c8c-dfda-4dc5-95b5-60c2c859c1d7"


@pytest.fixture(scope="module")
def sample() -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = defaultdict(dict)
    with lzma.open(SAMPLE) as packed, tarfile.open(fileobj=packed) as archive:
        for member in archive:
            parts = member.name.split("/")
            if "tasks" in parts and member.isfile():
                content = archive.extractfile(member)
                assert content is not None
                found[parts[-2]][parts[-1]] = content.read()
    return found


def test_every_task_of_the_sample_is_written_back_byte_for_byte(sample: dict[str, dict[str, bytes]]) -> None:
    assert len(sample) == 8
    for ident, files in sample.items():
        assert encode_task(decode_task(ident, files)) == files


def test_task_is_read(sample: dict[str, dict[str, bytes]]) -> None:
    found = decode_task(TASK, sample[TASK])
    run = "/tmp/research/run/rhev/data-center"
    image = f"c0000000-{END}"
    directory = f"{run}/mnt/_tmp_research_run_storage_localfs/5da00001-{END}/images/{image}"
    assert (found.verb, found.state, found.tag) == ("createVolume", TaskState.FINISHED, "spm")
    assert found.store == f"{run}/5bb00001-{END}/mastersd/master/tasks"
    assert found.outcome == Outcome(0, "1 jobs completed successfully", f"{{'uuid': 'c0000001-{END}'}}")
    assert found.rollbacks == (
        Rollback(f"create image rollback: {image}", "sd", "StorageDomain", "create_image_rollback", (directory,)),
        Rollback(
            "Create volume rollback",
            "fileVolume",
            "FileVolume",
            "createVolumeRollback",
            (f"{run}/5bb00001-{END}", f"5da00001-{END}", image, f"c0000001-{END}", directory),
        ),
    )
    assert [rollback.kind for rollback in found.rollbacks] == [RollbackKind.IMAGE, RollbackKind.VOLUME]
    assert replace(found.rollbacks[0], function="other").kind is None
    assert [job.name for job in found.jobs] == ["createVolume"]
    recovered = decode_task(RECOVERED, sample[RECOVERED])
    assert (recovered.state, recovered.outcome, recovered.rollbacks) == (TaskState.RECOVERED, None, ())


def test_words_for_clients_and_what_the_next_spm_does() -> None:
    words = {state.value: (state.told_state, state.told_result) for state in TaskState}
    assert words["finished"] == ("finished", "success")
    assert words["recovered"] == ("finished", "cleanSuccess")
    assert words["failed"] == ("finished", "cleanFailure")
    assert words["queued"] == words["acquiring"] == words["running"] == ("running", "")
    assert words["raborting"] == words["aborting"] == ("aborting", "")
    assert words["waitrecover"] == words["racquiring"] == words["recovering"] == ("cleaning", "")
    for state in TaskState:
        inherited = TaskRecord("x", "createVolume", state, "/store").inheritance
        assert (inherited is Inheritance.KEEP) is state.is_done
    for state in (TaskState.RUNNING, TaskState.QUEUED, TaskState.ABORTING, TaskState.RECOVERING):
        assert TaskRecord("x", "createVolume", state, "/store").inheritance is Inheritance.ROLL_BACK
    assert TaskRecord("x", "createVolume", TaskState.WAIT_RECOVER, "/store").inheritance is Inheritance.FAIL


@pytest.mark.parametrize(
    ("name", "old", "now"),
    [
        ("task", b"state = finished", b"state = king"),
        ("task", b"state = finished\n", b""),
        ("task", b"njobs = 1", b"njobs = 99999999999"),
        ("task", b"njobs = 1", b"njobs = x"),
        ("task", TASK.encode(), RECOVERED.encode()),
        ("recover.1", b"function", b"functions"),
        ("result", b"code = 0", b"code = none"),
        ("job.0", b"name", b"\xff"),
    ],
)
def test_damaged_task_is_refused(sample: dict[str, dict[str, bytes]], name: str, old: bytes, now: bytes) -> None:
    files = dict(sample[TASK])
    assert old in files[f"{TASK}.{name}"]
    files[f"{TASK}.{name}"] = files[f"{TASK}.{name}"].replace(old, now)
    with pytest.raises(Damaged):
        decode_task(TASK, files)


def test_missing_files_are_damage_and_a_missing_result_is_none(sample: dict[str, dict[str, bytes]]) -> None:
    for name in ("task", "job.0", "recover.1"):
        with pytest.raises(Damaged):
            decode_task(TASK, {file: data for file, data in sample[TASK].items() if file != f"{TASK}.{name}"})
    left = {file: data for file, data in sample[TASK].items() if not file.endswith(".result")}
    assert decode_task(TASK, left).outcome is None


def test_what_could_not_be_read_back_is_not_written() -> None:
    task = TaskRecord("x", "createVolume", TaskState.RUNNING, "/a=b")
    assert b"store = /a_eq_b\n" in encode_task(task)["x.task"]
    assert decode_task("x", encode_task(task)) == task
    for wrong in ("/a_eq_b", "/a_eq=b", "two\nlines", " x"):
        with pytest.raises(InvalidParameter):
            encode_task(replace(task, store=wrong))
    with pytest.raises(InvalidParameter):
        encode_task(replace(task, rollbacks=(Rollback("n", "m", "o", "f", ("a,b",)),)))
    with pytest.raises(InvalidParameter):
        encode_task(replace(task, store="/\udcff"))


WORD = st.text(max_size=20) | st.text("_eq=, ", max_size=12)


@given(WORD, WORD, st.lists(WORD, max_size=3), st.integers(0, 5000), WORD)
def test_every_task_comes_back_or_is_not_written(
    verb: str, store: str, params: list[str], code: int, message: str
) -> None:
    task = TaskRecord(
        "x",
        verb,
        TaskState.ABORTING,
        store,
        (Job("a job"),),
        (Rollback("back", "m", "o", "f", tuple(params)), Rollback("back", "m", "o", "g")),
        Outcome(code, message),
    )
    try:
        files = encode_task(task)
    except InvalidParameter:
        return
    assert decode_task("x", files) == task
