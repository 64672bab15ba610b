"""The program of a helper process: does file calls for the agent, which is at the other end of its standard input.

    python -m vdsm.storage.oop.helper DOMAIN

It ends when the agent closes the socket or dies. Its imports are few, as every storage domain has one running; it logs
nothing: what goes wrong is in the answers, and what breaks it is on standard error, which is the agent's.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from typing import Final

from vdsm.base.clock import boottime_s
from vdsm.base.threads import Pool
from vdsm.storage.files.localfiles import LocalFiles
from vdsm.storage.oop import frames

# So many calls wait for the disk at the same time; the others wait here, up to what the agent lets through.
WORKERS: Final = 8
QUEUE: Final = 256
_CHUNK: Final = 1 << 18


class Server:
    """Answers the requests that come over one socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection: Final = connection
        self._pool: Final = Pool("file", WORKERS, QUEUE)
        self._sending: Final = threading.Lock()
        files = LocalFiles()
        self._calls: Final = {name: getattr(files, name) for name in frames.CALLS}

    def serve(self) -> None:
        """Until the other end closes."""
        reader = frames.FrameReader()
        while data := self._connection.recv(_CHUNK):
            for body in reader.feed(data):
                self._pool.submit(self._answer, frames.decode_request(body))

    def _answer(self, request: frames.Request) -> None:
        data = frames.encode_answer(self._perform(request))
        if len(data) > frames.MAX_FRAME:
            data = frames.encode_answer(_too_much(request))
        with self._sending:
            self._connection.sendall(data)

    def _perform(self, request: frames.Request) -> frames.Answer:
        try:
            # What is not in the table is a KeyError: no other attribute can be reached.
            call = self._calls[request.call]
            if request.until_s and request.call not in frames.READS and boottime_s() > request.until_s:
                raise TimeoutError(errno.ETIMEDOUT, "too late to begin")  # noqa: TRY301 - as if the file system said so
            return frames.Answer(request.number, frames.encode_result(call(*request.arguments, **request.options)))
        except OSError as error:
            return frames.Answer(request.number, None, frames.encode_fault(error))
        except Exception as error:  # noqa: BLE001 - the one who asked gets it, whatever it is
            return frames.Answer(request.number, None, frames.Fault(0, f"{type(error).__name__}: {error}"))


def _too_much(request: frames.Request) -> frames.Answer:
    return frames.Answer(
        request.number, None, frames.encode_fault(OSError(errno.EFBIG, "more to answer than a call carries"))
    )


def main() -> None:
    """Serve, and leave at once: threads that hang in the kernel are not waited for."""
    try:
        Server(socket.socket(fileno=os.dup(0))).serve()
    except OSError as error:
        sys.stderr.write(f"file helper of {sys.argv[1:]}: {error}\n")
    os._exit(0)


if __name__ == "__main__":
    main()
