"""A program: runs a command in a mount namespace where one directory is a file system that never answers.

    python frozen_mount.py DIRECTORY COMMAND...

It is what a dead NFS server looks like: a stat waits in the kernel, and SIGKILL does not help. The file system is a
FUSE connection whose requests are read and not answered; it ends with this program, and then all who wait get an error.
Nobody outside of the namespace sees it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import subprocess
import sys
import threading

CLONE_NEWNS = 0x20000
MS_REC_PRIVATE = (1 << 14) | (1 << 18)
FUSE_INIT = 26
IN_HEADER = struct.Struct("=IIQ")
OUT_HEADER = struct.Struct("=IiQ")
# major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, ... (struct fuse_init_out)
INIT_ANSWER = struct.pack("=IIIIHHI40x", 7, 19, 65536, 0, 12, 9, 4096)


def mount_frozen(directory: str) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    for result in (
        libc.unshare(CLONE_NEWNS),
        libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None),
        libc.mount(b"frozen", os.fsencode(directory), b"fuse", 0, options),
    ):
        if result:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return device


def swallow(device: int) -> None:
    while True:
        _, operation, unique = IN_HEADER.unpack_from(os.read(device, 1 << 20))
        if operation == FUSE_INIT:
            os.write(device, OUT_HEADER.pack(OUT_HEADER.size + len(INIT_ANSWER), 0, unique) + INIT_ANSWER)


def main() -> int:
    device = mount_frozen(sys.argv[1])
    threading.Thread(target=swallow, args=(device,), daemon=True).start()
    child = subprocess.Popen(sys.argv[2:])
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    return child.wait()


if __name__ == "__main__":
    sys.exit(main())
