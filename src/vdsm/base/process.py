"""Programs are started here and nowhere else: without a shell, in a fixed environment, under a deadline.

Every child leads a session of its own, so that a deadline ends it together with all that it started. A child that
survives SIGKILL is stuck in the kernel (a dead NFS server, a lost disk): it is abandoned - a thread named
``abandoned-PID`` waits for it, nobody else does - and counted. Secrets go through stdin: argv is logged.
"""

from __future__ import annotations

import logging
import os
import select
import selectors
import shlex
import signal
import subprocess  # noqa: TID251 - this is its one place
import threading
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

from vdsm.base import threads
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import CommandFailed, Unfinished

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger(__name__)

_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/",
}
# Seconds that a killed process group gets to be gone before it is abandoned.
_KILL_GRACE_S: Final = 1.0
_CHUNK: Final = 65536
_ABANDONED: Final = "abandoned-"
# The shell's statuses for a program that could not be started.
_NOT_FOUND: Final = 127
_NOT_EXECUTABLE: Final = 126


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may use. ``None`` means no limit of ours.

    Attributes:
        address_space: bytes of virtual memory.
        cpu_s: whole seconds of processor time.
        file_size: bytes of the largest file it may write.
        dies_with_caller: it is killed when the thread that started it ends, so also when the agent is killed.
        keep_capabilities: names (``dac_override``) of the only capabilities that a root child keeps.
    """

    address_space: int | None = None
    cpu_s: int | None = None
    file_size: int | None = None
    dies_with_caller: bool = False
    keep_capabilities: tuple[str, ...] | None = None

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """Put util-linux' prlimit and setpriv in front; they replace themselves, so the pid stays the program's.

        A preexec_fn would do without them, but it runs Python between fork and exec in a threaded process.
        """
        resources = {"as": self.address_space, "cpu": self.cpu_s, "fsize": self.file_size}
        options = [f"--{name}={value}" for name, value in resources.items() if value is not None]
        prefix = ["prlimit", "--core=0", *options, "--"] if options else []
        privileges = []
        if self.dies_with_caller:
            privileges += ["--pdeathsig", "KILL"]
        if self.keep_capabilities is not None:
            kept = "".join(f",+{name}" for name in self.keep_capabilities)
            privileges += ["--no-new-privs", "--inh-caps=-all", f"--bounding-set=-all{kept}"]
        return [*(["setpriv", *privileges] if privileges else []), *prefix, *argv]


@dataclass(frozen=True, slots=True)
class Completed:
    """How a program ended and what it said."""

    stdout: bytes
    stderr: bytes
    code: int


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout_s: float,
    stdin: bytes = b"",
    ok: Sequence[int] = (0,),
    env: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    max_output: int = 64 << 20,
) -> Completed:
    """Run a program to its end.

    Args:
        argv: the program (looked up in the fixed PATH) and its arguments; logged, so no secrets.
        timeout_s: seconds until its whole process group is killed.
        stdin: what it reads, secrets included.
        ok: the exit statuses that are not an error.
        env: variables beside the fixed ones.
        limits: what it may use.
        max_output: bytes of output after which it is killed.

    Raises:
        CommandFailed: it ended with another status, could not be started (126, 127) or talked too much.
        Unfinished: it was killed at the deadline (or abandoned, if it could not be killed).
    """
    began = monotonic_s()
    child = spawn(argv, env=env, limits=limits, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        exchange = _Exchange(child, stdin, max_output)
        finished = exchange.complete(began + timeout_s)
    finally:
        # Also for the caller's KeyboardInterrupt: nothing that run() started outlives it.
        child.stop(0.0)
    out, err = exchange.output()
    seconds = monotonic_s() - began
    code = child.poll()
    log.debug("ran %s: %s in %.3f s", child.command, code, seconds)
    if exchange.overflow:
        raise CommandFailed(child.command, code or 0, "", f"more than {max_output} bytes of output")
    if not finished or code is None:
        raise Unfinished(child.command, timeout_s)
    if code not in ok:
        raise CommandFailed(child.command, code, _text(out), _text(err))
    return Completed(out, err, code)


def spawn(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.DEVNULL,
) -> Child:
    """Start a program that lives on; its starter stops it with :meth:`Child.stop`.

    ``stdin``, ``stdout`` and ``stderr`` are file descriptors, or ``process.DEVNULL``, ``PIPE``, ``STDOUT``.

    Raises:
        CommandFailed: it could not be started (126, 127).
    """
    words = [os.fspath(word) for word in argv]
    command = shlex.join(words)
    try:
        started = subprocess.Popen(
            limits.wrap(words) if limits else words,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**_ENVIRONMENT, **(env or {})},
            cwd="/",
            bufsize=0,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise CommandFailed(command, _NOT_FOUND, "", str(error)) from error
    except OSError as error:
        raise CommandFailed(command, _NOT_EXECUTABLE, "", str(error)) from error
    return Child(command, started)


PIPE: Final = subprocess.PIPE
DEVNULL: Final = subprocess.DEVNULL
STDOUT: Final = subprocess.STDOUT


def abandoned() -> int:
    """How many children could not be killed and are still there."""
    return sum(thread.name.startswith(_ABANDONED) for thread in threading.enumerate())


class Child:
    """A running program and its process group."""

    def __init__(self, command: str, popen: subprocess.Popen[bytes]) -> None:
        self.command: Final = command
        self._popen: Final = popen
        self._abandoned = False

    @property
    def pid(self) -> int:
        """Its process id, which is also the id of its session and process group."""
        return self._popen.pid

    @property
    def stdin(self) -> IO[bytes] | None:
        """Its unbuffered standard input, if that is a pipe."""
        return self._popen.stdin

    @property
    def stdout(self) -> IO[bytes] | None:
        """Its unbuffered standard output, if that is a pipe."""
        return self._popen.stdout

    @property
    def stderr(self) -> IO[bytes] | None:
        """Its unbuffered standard error, if that is a pipe."""
        return self._popen.stderr

    def poll(self) -> int | None:
        """Its exit status (negative: the signal), None while it runs or once it is abandoned."""
        if self._abandoned or self._popen.returncode is not None:
            return self._popen.returncode
        # WNOWAIT leaves the zombie, and as long as that is there its pid, the group's id, is nobody else's.
        try:
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # another thread has just reaped it in stop()
            return self._popen.poll()
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def wait(self, timeout_s: float) -> int:
        """Wait for its end.

        Raises:
            Unfinished: it still runs after ``timeout_s`` seconds.
        """
        if self.ended_within(timeout_s) and (code := self.poll()) is not None:
            return code
        raise Unfinished(self.command, timeout_s)

    def ended_within(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for its end; whether it has come."""
        if self.poll() is not None:
            return True
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            watch = select.poll()
            watch.register(descriptor, select.POLLIN)
            return bool(watch.poll(max(0.0, seconds) * 1000))
        finally:
            os.close(descriptor)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process group, also when its leader has ended already."""
        if not self._abandoned and self._popen.returncode is None:
            os.killpg(self.pid, number)

    def stop(self, grace_s: float) -> None:
        """End it and all of its group: SIGTERM and ``grace_s`` seconds, then SIGKILL; then abandon it.

        Closes its pipes. Every child must be stopped by its starter, also one that has ended: that clears it away.
        """
        if grace_s > 0 and self.poll() is None:
            self.signal(signal.SIGTERM)
            self.ended_within(grace_s)
        if not self._abandoned and self._popen.returncode is None:
            self.signal(signal.SIGKILL)
            if self.ended_within(_KILL_GRACE_S):
                self._popen.wait()
            else:
                self._abandon()
        for stream in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if stream is not None:
                stream.close()

    def _abandon(self) -> None:
        log.error("abandoned %s (pid %d): it cannot be killed", self.command, self.pid)
        self._abandoned = True
        threads.start(f"{_ABANDONED}{self.pid}", self._popen.wait)


class _Exchange:
    """Feeds a child and collects what it says, up to a size and a deadline."""

    def __init__(self, child: Child, stdin: bytes, max_output: int) -> None:
        self._child = child
        self._stdin = memoryview(stdin)
        self._room = max_output
        self._out: dict[IO[bytes], bytearray] = {
            stream: bytearray() for stream in (child.stdout, child.stderr) if stream is not None
        }
        self.overflow = False

    def output(self) -> tuple[bytes, bytes]:
        """What came on standard output and standard error."""
        out, err = self._out.values()
        return bytes(out), bytes(err)

    def complete(self, until_s: float) -> bool:
        """Talk until the child has closed its side and ended; False at the monotonic time ``until_s``."""
        with selectors.DefaultSelector() as selector:
            for stream in self._out:
                selector.register(stream, selectors.EVENT_READ)
            self._offer(selector)
            while selector.get_map() and not self.overflow:
                left = until_s - monotonic_s()
                if left <= 0:
                    return False
                for key, _ in selector.select(left):
                    self._move(key.fileobj, selector)
        if self.overflow:
            return False
        return self._child.ended_within(max(0.0, until_s - monotonic_s()))

    def _offer(self, selector: selectors.BaseSelector) -> None:
        stream = self._child.stdin
        if stream is None:
            return
        if not self._stdin:
            stream.close()
            return
        os.set_blocking(stream.fileno(), False)
        selector.register(stream, selectors.EVENT_WRITE)

    def _move(self, stream: object, selector: selectors.BaseSelector) -> None:
        if stream is self._child.stdin and self._child.stdin is not None:
            self._feed(self._child.stdin, selector)
            return
        for reader, collected in self._out.items():
            if reader is stream:
                self._collect(reader, collected, selector)

    def _feed(self, stream: IO[bytes], selector: selectors.BaseSelector) -> None:
        try:
            self._stdin = self._stdin[os.write(stream.fileno(), self._stdin[:_CHUNK]) :]
        except BrokenPipeError:
            self._stdin = memoryview(b"")
        if not self._stdin:
            selector.unregister(stream)
            stream.close()

    def _collect(self, stream: IO[bytes], collected: bytearray, selector: selectors.BaseSelector) -> None:
        data = os.read(stream.fileno(), _CHUNK)
        if not data:
            selector.unregister(stream)
        self._room -= len(data)
        self.overflow = self._room < 0
        collected += data


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").strip()
