"""Work of qemu-img that takes as long as it takes: convert and commit.

A child is followed: its progress is told as it says it, it is killed when it is to stop, and when it has shown no
progress, made no I/O and used no processor time for a while, because then the storage does not answer. It dies with
the agent, so that nobody writes what nobody knows of.

It runs nicely: behind everything else that wants the processor, and last in its class for the disk, but never starved.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Literal

from vdsm.base import process
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import CommandFailed, Unfinished
from vdsm.system.qemu_img.questions import Format

Cache = Literal["none", "writeback"]

_NICELY: Final = ("nice", "-n", "10", "ionice", "-c", "2", "-n", "7")
# Threads for I/O take address space; the buffers of a copy are small.
_LIMITS: Final = process.Limits(address_space=4 << 30, dies_with_caller=True)
_PERCENT: Final = re.compile(rb"\((\d{1,3}\.\d{2})/100%\)")
# Seconds between two looks at whether it still does something.
_LOOK_S: Final = 1.0
_KEPT: Final = 16 << 10
_CHUNK: Final = 65536


class Stopped(Exception):
    """The work was killed because it was to stop; who asked for it knows why."""


@dataclass(frozen=True, slots=True)
class Follower:
    """Who follows the work.

    Attributes:
        progress: told how much is done, 0 to 1.
        on_stop: a context in which the given function is called, in another thread, if the work is to stop.
        silence_s: seconds without any sign of life after which it is given up.
    """

    progress: Callable[[float], None]
    on_stop: Callable[[Callable[[], object]], AbstractContextManager[None]]
    silence_s: float


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of an image into a file or device that is there already, with a size and (qcow2) a header.

    Attributes:
        source: absolute path; its chain's headers were accepted.
        source_format: its format.
        target: absolute path.
        target_format: its format.
        backing: what the target's header names, if it names anything: then only the source's own clusters are copied.
        blank: the target reads as zeros all over, so that zeros need not be written.
        bitmaps: copy the source's persistent bitmaps, too.
        unordered: write in any order: faster on block devices, and leaves files in pieces.
        source_cache: "none" reads past the page cache.
        target_cache: "none" writes past the page cache.
    """

    source: str
    source_format: Format
    target: str
    target_format: Format
    backing: tuple[str, str] | None = None
    blank: bool = True
    bitmaps: bool = False
    unordered: bool = False
    source_cache: Cache = "none"
    target_cache: Cache = "none"

    def argv(self) -> list[str]:
        """Its command line."""
        options = ["-B", self.backing[0], "-F", self.backing[1]] if self.backing else []
        if self.blank and not self.backing:
            options.append("--target-is-zero")
        if self.bitmaps:
            options.append("--bitmaps")
        if self.unordered:
            options.append("-W")
        return [
            *("qemu-img", "convert", "-p", "-t", self.target_cache, "-T", self.source_cache, "-n", *options),
            *("-f", self.source_format, "-O", self.target_format, self.source, self.target),
        ]


def convert(copy: Copy, follower: Follower) -> None:
    """Copy what a guest sees of an image.

    Raises:
        CommandFailed: qemu-img refused.
        Unfinished: the storage does not answer; a last write may still arrive at the target.
        Stopped: it was to stop.
    """
    _follow(copy.argv(), follower)


def commit(top: str, base: str, follower: Follower, *, cache: Cache) -> None:
    """Write a qcow2 image's own clusters into the one right below it, which grows if need be. The image stays as it is.

    Args:
        top: absolute path; its chain's headers were accepted.
        base: the name of the one below as it stands in the header.
        follower: who follows it.
        cache: "none" goes past the page cache.

    Raises:
        CommandFailed, Unfinished, Stopped: as for ``convert``.
    """
    _follow(["qemu-img", "commit", "-p", "-d", "-t", cache, "-f", "qcow2", "-b", base, top], follower)


class _Killer:
    """Kills a child as long as its id is its own."""

    def __init__(self, child: process.Child) -> None:
        self._child: Final = child
        self._lock = threading.Lock()
        self._over = False
        self.used = False

    def kill(self) -> None:
        """For another thread."""
        with self._lock:
            self.used = True
            if not self._over:
                self._child.signal(signal.SIGKILL)

    def clear_away(self) -> None:
        """For the child's starter: what does not die is abandoned."""
        with self._lock:
            self._over = True
        self._child.stop(0.0)


def _follow(argv: Sequence[str], follower: Follower) -> None:
    child = process.spawn([*_NICELY, *argv], limits=_LIMITS, stderr=process.PIPE)
    killer = _Killer(child)
    try:
        talk = _Talk(child, follower, killer)
        with follower.on_stop(killer.kill):
            answered = talk.listen()
        code = child.poll()
        if killer.used:
            raise Stopped
        if not answered or code is None:
            raise Unfinished(f"qemu-img {argv[1]}", follower.silence_s)
        if code != 0:
            raise CommandFailed(child.command, code, "", talk.said())
    finally:
        killer.clear_away()


class _Talk:
    """What a child says while it works, and whether it lives."""

    def __init__(self, child: process.Child, follower: Follower, killer: _Killer) -> None:
        self._child: Final = child
        self._follower: Final = follower
        self._killer: Final = killer
        self._kept: dict[IO[bytes], bytes] = {
            stream: b"" for stream in (child.stdout, child.stderr) if stream is not None
        }
        self._sign: object = None
        self._alive_s = monotonic_s()

    def said(self) -> str:
        """The end of what it said of errors."""
        return list(self._kept.values())[-1].decode("utf-8", "replace").strip()

    def listen(self) -> bool:
        """Follow it to its end; False when it is silent for too long, or was killed and is still there."""
        with selectors.DefaultSelector() as selector:
            for stream in self._kept:
                selector.register(stream, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select(_LOOK_S):
                    self._read(key.fileobj, selector)
                if not self._is_alive():
                    return False
        while not self._child.ended_within(_LOOK_S):
            if not self._is_alive():
                return False
        return True

    def _read(self, stream: object, selector: selectors.BaseSelector) -> None:
        for own in self._kept:
            if own is stream:
                data = os.read(own.fileno(), _CHUNK)
                if not data:
                    selector.unregister(own)
                self._kept[own] = (self._kept[own] + data)[-_KEPT:]
                if own is self._child.stdout and (found := _PERCENT.findall(self._kept[own])):
                    self._kept[own] = self._kept[own][-32:]
                    self._follower.progress(float(found[-1]) / 100)

    def _is_alive(self) -> bool:
        """Whether it is worth waiting for."""
        if self._killer.used:
            return False
        now = monotonic_s()
        sign = _sign_of_life(self._child.pid, *self._kept.values())
        if sign != self._sign:
            self._sign, self._alive_s = sign, now
        return now - self._alive_s < self._follower.silence_s


def _sign_of_life(pid: int, *said: bytes) -> tuple[object, ...]:
    """Something that changes as long as a process does anything: what it said, its I/O, its processor time."""
    found: list[object] = [*said]
    for name in ("io", "stat"):
        try:
            found.append(Path(f"/proc/{pid}/{name}").read_bytes())
        except OSError:
            # Nobody else's business on this kernel, or it has ended: what is left of the signs counts.
            continue
    return tuple(found)
