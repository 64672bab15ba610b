"""Paths that are refused before anybody looks at the disk."""

from __future__ import annotations

from typing import NoReturn

import pytest

from vdsm.base.errors import BadParameter
from vdsm.virt.disks import ImageRef, PathImages


class NobodyLooks:
    """An inspector that must not be asked."""

    def inspect_path(self, path: str, /) -> NoReturn:
        raise AssertionError(path)

    inspect_image = inspect_path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "images/a",
        "//images/a",
        "/images",
        "/images/",
        "/images-of-another/a",
        "/images/../etc/shadow",
        "/images/./../images-of-another/a",
        "/etc/shadow",
        "/dev/sda",
        "/images/a\0b",
        "/images/a\n",
        "/images/" + "a" * 4096,
        "PAYLOAD:",
        "nbd://host/x",
        "json:{}",
    ],
)
def test_a_path_outside_is_refused_unseen(path):
    images = PathImages(NobodyLooks(), ["/images"])
    with pytest.raises(BadParameter) as caught:
        images.prepare(ImageRef(field="disks[0].path", target="vda", path=path, format="raw"))
    assert caught.value.field == "disks[0].path"


def test_nothing_is_allowed_where_nothing_is():
    with pytest.raises(BadParameter, match="there are none"):
        PathImages(NobodyLooks(), []).prepare(ImageRef(field="x", target="vda", path="/images/a", format="raw"))
