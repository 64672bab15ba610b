"""qemu-img: its questions and its work, typed both ways. The only place that knows its options.

header     a qcow2 header as it stands in the file, before QEMU sees it
questions  info, check, measure: answers within a deadline, under limits, also about hostile images
changes    create, resize, rebase, amend, bitmaps: a header's worth of writing, within a deadline
work       convert, commit: hours, with progress, a stop, and a deadline for silence
"""

from vdsm.system.qemu_img.changes import create_qcow2
from vdsm.system.qemu_img.header import MAGIC, Header, parse_header, read_header
from vdsm.system.qemu_img.questions import Format, Info, info

__all__ = ["MAGIC", "Format", "Header", "Info", "create_qcow2", "info", "parse_header", "read_header"]
