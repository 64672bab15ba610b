"""What can be typed after ``vdscli image``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdscli.parser import count

if TYPE_CHECKING:
    from vdscli.parser import CommandParser


def fill(parser: CommandParser) -> None:
    """Add the commands."""
    parser.command("upload", "Fill an image of a storage domain from a file", _upload, "image_upload:upload")
    parser.command("download", "Copy an image of a storage domain into a file", _download, "image_download:download")


def _upload(parser: CommandParser) -> None:
    parser.description = (
        "Fill an image of a storage domain from a file. What is cut off goes on where it was when the same command is "
        "given again. The volume is ILLEGAL until all is there and its checksum is right."
    )
    parser.arg("file", metavar="FILE", complete="file", help="a raw or qcow2 image")
    parser.arg("domain", metavar="DOMAIN", help="the storage domain's id")
    parser.arg("--image", metavar="ID", help="the image's id (a new one)")
    parser.arg("--volume", metavar="ID", help="the volume's id (a new one); one that is there is overwritten")
    parser.arg("--volume-format", choices=("raw", "qcow2"), help="the new volume's format (the file's)")
    parser.arg("--preallocated", action="store_true", help="take all of the new volume's space at once")
    parser.arg("--description", default="", metavar="TEXT", help="the new volume's description")
    _common(parser)


def _download(parser: CommandParser) -> None:
    parser.description = (
        "Copy what a guest sees of an image into a file. What is cut off goes on where it was when the same command "
        "is given again."
    )
    parser.arg("domain", metavar="DOMAIN", help="the storage domain's id")
    parser.arg("image", metavar="IMAGE", help="the image's id")
    parser.arg("file", metavar="FILE", complete="file", help="the file to be made")
    parser.arg("--volume", metavar="ID", help="the volume's id (the image's top)")
    parser.arg("--format", choices=("raw", "qcow2"), default="raw", help="the file's format (raw)")
    parser.arg("--overwrite", action="store_true", help="replace a file that is there")
    _common(parser)


def _common(parser: CommandParser) -> None:
    parser.arg("-c", "--connections", type=count, default=4, metavar="N", help="connections at a time, 1 to 8 (4)")
    parser.arg("--no-checksum", action="store_true", help="do not compare checksums at the end")
