"""The command agent of a full node, on virtio-serial ports; standard library only.

    agent.py PORT...      one process per port; a port is found by its name

A frame, both ways: two big-endian 32-bit lengths, a JSON header of the first length, a blob of the second.

    request   {"id", "op": "run",  "argv", "env", "cwd", "timeout_s"}            blob: standard input
              {"id", "op": "call", "source", "name", "args", "timeout_s"}        blob: standard input
              {"id", "op": "kill", "of", "signal"}    {"id", "op": "ping"}
    answer    {"id", "code", "timed_out", "sizes": [out, err, value], "error"}   blob: the three, one after the other

``code`` is the exit status, negative for a signal, absent when the deadline came first. "call" runs a function's
source in a fork of this warm interpreter; ``value`` is what it returned, as JSON. Every request has a child of its own:
one that hangs in the kernel blocks nobody. An answer comes when the child has ended, whoever else holds its output: a
daemon started by a command keeps nobody waiting. A child that missed its deadline is killed and not waited for.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import struct
import sys
import time
import traceback
from pathlib import Path

HEADER = struct.Struct(">II")
PROJECT_PATHS = ("/opt/vdsm/src", "/opt/vdsm/.venv/lib/python3.11/site-packages")
CHUNK = 1 << 16
# A child that has ended may leave this much in each pipe (the size of a pipe).
PIPE_ROUNDS = 64


class Child:
    """A request that is being served: its process, the pipes it writes to, its deadline."""

    def __init__(self, request: dict, pid: int, pipes: list[int]) -> None:
        self.ident = request["id"]
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.pipes = pipes
        self.parts: list[list[bytes]] = [[] for _ in pipes]
        timeout_s = request.get("timeout_s")
        self.end = time.monotonic() + timeout_s if timeout_s else None
        self.answered = False

    def read(self, pipe: int) -> bool:
        """Take what is in a pipe; False at its end."""
        try:
            data = os.read(pipe, CHUNK)
        except BlockingIOError:
            return True
        self.parts[self.pipes.index(pipe)].append(data)
        return bool(data)

    def drain(self, pipes: list[int]) -> None:
        for pipe in pipes:
            for _ in range(PIPE_ROUNDS):
                before = len(self.parts[self.pipes.index(pipe)])
                if not self.read(pipe) or len(self.parts[self.pipes.index(pipe)]) == before:
                    break


class Agent:
    """Serves one port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.buffer = bytearray()
        self.children: dict[int, Child] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(port, selectors.EVENT_READ, None)

    def serve(self) -> None:
        self.answer(0)
        while True:
            for key, _ in self.selector.select(self.patience()):
                child = key.data
                if self.selector.get_map().get(key.fd) is not key:
                    continue  # closed since, on account of an earlier one of these events
                if child is None:
                    self.receive()
                elif key.fd == child.pidfd:
                    self.ended(child)
                elif not child.read(key.fd):
                    self.selector.unregister(key.fd)
            self.enforce()

    def patience(self) -> float:
        ends = [child.end for child in self.children.values() if child.end and not child.answered]
        return max(0.01, min(ends) - time.monotonic()) if ends else 5.0

    def receive(self) -> None:
        data = os.read(self.port, CHUNK)
        if not data:  # nobody is connected: what was half received is void
            self.buffer.clear()
            time.sleep(0.05)
            return
        self.buffer += data
        while len(self.buffer) >= HEADER.size:
            head, blob = HEADER.unpack_from(self.buffer)
            size = HEADER.size + head + blob
            if len(self.buffer) < size:
                return
            frame = bytes(self.buffer[:size])
            del self.buffer[:size]
            self.start(json.loads(frame[HEADER.size : HEADER.size + head]), frame[HEADER.size + head :])

    def start(self, request: dict, blob: bytes) -> None:
        if request["op"] == "ping":
            self.answer(request["id"], code=0)
            return
        if request["op"] == "kill":
            self.kill(request)
            return
        try:
            child = self.spawn(request, blob)
        except OSError as error:
            self.answer(request["id"], code=126, error=repr(error))
            return
        self.children[child.ident] = child
        for fd in (*child.pipes, child.pidfd):
            self.selector.register(fd, selectors.EVENT_READ, child)

    def kill(self, request: dict) -> None:
        child = self.children.get(request["of"])
        if child:
            signal_group(child.pid, request["signal"])
        self.answer(request["id"], code=0 if child else 1)

    def spawn(self, request: dict, blob: bytes) -> Child:
        stdin = os.memfd_create("stdin")
        view = memoryview(blob)
        while view:
            view = view[os.write(stdin, view) :]
        os.lseek(stdin, 0, os.SEEK_SET)
        pairs = [os.pipe() for _ in range(3)]
        pid = os.fork()
        if pid == 0:
            be_child(request, stdin, [writer for _, writer in pairs])
        os.close(stdin)
        for reader, writer in pairs:
            os.close(writer)
            os.set_blocking(reader, False)
        return Child(request, pid, [reader for reader, _ in pairs])

    def ended(self, child: Child) -> None:
        _, status = os.waitpid(child.pid, 0)
        child.drain([pipe for pipe in child.pipes if pipe in self.selector.get_map()])
        if not child.answered:
            self.answer(child.ident, child.parts, code=os.waitstatus_to_exitcode(status))
        for fd in (*child.pipes, child.pidfd):
            if fd in self.selector.get_map():
                self.selector.unregister(fd)
            os.close(fd)
        del self.children[child.ident]

    def enforce(self) -> None:
        now = time.monotonic()
        for child in self.children.values():
            if child.end and now > child.end and not child.answered:
                child.answered = True
                signal_group(child.pid, signal.SIGKILL)
                self.answer(child.ident, child.parts, timed_out=True)

    def answer(self, ident: int, parts: list[list[bytes]] | None = None, **facts: object) -> None:
        blobs = [b"".join(part) for part in parts or []]
        head = json.dumps({"id": ident, "sizes": [len(blob) for blob in blobs], **facts}).encode()
        blob = b"".join(blobs)
        data = memoryview(HEADER.pack(len(head), len(blob)) + head + blob)
        while data:
            data = data[os.write(self.port, data) :]


def signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        os.kill(pid, number)  # not yet the leader of its own group


def be_child(request: dict, stdin: int, writers: list[int]) -> None:
    """The child's whole life; never returns."""
    code = 127
    try:
        os.setsid()
        # Out of the way of 0..3 first: a pipe's end may be one of them.
        high = [os.dup(fd) + 0 for fd in (stdin, *writers)]
        while min(high) < 4:
            high = [os.dup(fd) for fd in high]
        for target, fd in enumerate(high):
            os.dup2(fd, target, inheritable=target < 3)
        os.closerange(4, 1024)
        for number in (signal.SIGPIPE, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        if request["op"] == "call":
            code = call(request)
        else:
            os.chdir(request.get("cwd") or "/")
            argv = request["argv"]
            os.execvpe(argv[0], argv, {**os.environ, **(request.get("env") or {})})
    except BaseException as error:  # noqa: BLE001 - the one who asked gets it
        os.write(2, f"{error!r}\n".encode())
    finally:
        os._exit(code)


def call(request: dict) -> int:
    """Run a shipped function; its value goes to descriptor 3."""
    if "random" in sys.modules:
        sys.modules["random"].seed()  # children are forks of one state
    sys.path_importer_cache.clear()  # the project may have been mounted since
    names: dict = {"__name__": "__node__"}
    try:
        exec(compile(request["source"], "<shipped>", "exec"), names)
        value = json.dumps(names[request["name"]](*request["args"])).encode()
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 0
    except BaseException:  # noqa: BLE001 - the one who asked gets it
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    while value:
        value = value[os.write(3, value) :]
    return 0


def find_port(name: str) -> Path | None:
    for folder in Path("/sys/class/virtio-ports").glob("*"):
        if (folder / "name").read_text().strip() == name:
            return Path("/dev") / folder.name
    return None


def main() -> None:
    sys.path += ["/usr/lib/python3/dist-packages", *PROJECT_PATHS]  # started with -S
    names = sys.argv[1:]
    for name in names[1:]:
        if os.fork() == 0:
            names = [name]
            break
    for _ in range(200):
        path = find_port(names[0])
        if path and path.exists():
            Agent(os.open(path, os.O_RDWR)).serve()
        time.sleep(0.02)
    sys.exit(f"no port named {names[0]}")


if __name__ == "__main__":
    main()
