"""Just enough of a VNC client (RFB 3.8) to try a password."""

from __future__ import annotations

import socket
import struct
import subprocess
from typing import Final

_VERSION: Final = b"RFB 003.008\n"
_VNC_AUTHENTICATION: Final = 2


class Client:
    """A connection to a VNC server: on a port of this machine, or one that was made already."""

    def __init__(self, place: int | socket.socket) -> None:
        if isinstance(place, int):
            place = socket.create_connection(("127.0.0.1", place), timeout=10)
        self._socket = place

    def close(self) -> None:
        """Leave."""
        self._socket.close()

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._socket.recv(count - len(data))
            if not more:
                raise ConnectionError("the server closed the connection")
            data += more
        return data

    def enter(self, password: str) -> bool:
        """Whether the server lets us in with this password."""
        assert self._read(12) == _VERSION
        self._socket.sendall(_VERSION)
        kinds = self._read(self._read(1)[0])
        assert _VNC_AUTHENTICATION in kinds, f"the server offers {list(kinds)}"
        self._socket.sendall(bytes([_VNC_AUTHENTICATION]))
        self._socket.sendall(_answer(self._read(16), password))
        (refused,) = struct.unpack(">I", self._read(4))
        if not refused:
            self._socket.sendall(b"\1")  # shared
            self._read(24)  # the display's size and format: we are in
        return not refused


def _answer(challenge: bytes, password: str) -> bytes:
    """The challenge under DES, with the bits of each key byte in reverse, as VNC has it."""
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in password.encode()[:8].ljust(8, b"\0"))
    argv = ["openssl", "enc", "-des-ecb", "-nopad", "-K", key.hex(), "-provider", "legacy", "-provider", "default"]
    return subprocess.run(argv, input=challenge, capture_output=True, check=True, timeout=30).stdout
