"""Lets the agent's user in to a libvirtd that admits nobody but root.

    vdsmd (user vdsm) -> RUN_DIR/libvirt/relay.sock -> this process (root) -> the machine's libvirtd

A libvirtd with Debian's configuration asks polkit about other users, and without a system bus refuses them all. The
configuration of the machine's libvirtd is not ours to change; root started "make run", so root's process stands in
between. Only the agent's group can reach the socket. Bytes are passed as they are.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path

CHUNK = 1 << 16


def serve(path: Path, upstream: Path, gid: int) -> int:
    """Relay connections at ``path``, open to root and the group ``gid``, to ``upstream`` until SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    path.unlink(missing_ok=True)
    os.umask(0o177)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        os.chown(path, 0, gid)
        path.chmod(0o660)
        listening.listen(64)
        while True:
            near, _ = listening.accept()
            far = socket.socket(socket.AF_UNIX)
            try:
                far.connect(str(upstream))
            except OSError:
                near.close()  # libvirtd is down: the caller sees its connection end, and tries again
                far.close()
                continue
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Pass bytes on until one side ends; then end both."""
    with suppress(OSError):
        while data := source.recv(CHUNK):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
