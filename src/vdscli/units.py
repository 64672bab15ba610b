"""Numbers as people write and read them."""

from __future__ import annotations

from typing import Final

_POWERS: Final = {"": 20, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_NAMES: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def mebibytes(text: str) -> int:
    """``512``, ``512M``, ``2G``, ``1.5GiB`` -> MiB; a bare number is MiB.

    Raises:
        ValueError: not such a size, or not a whole number of MiB.
    """
    lowered = text.strip().lower().removesuffix("ib").removesuffix("b")
    number, suffix = (lowered[:-1], lowered[-1]) if lowered[-1:] in _POWERS and lowered else (lowered, "")
    if not number.replace(".", "", 1).isdecimal() or not number.isascii():
        raise ValueError("not a size like 512M or 2G")
    scaled = float(number) * (1 << _POWERS[suffix]) / (1 << 20)
    if scaled != int(scaled) or scaled < 1:
        raise ValueError("not a whole number of MiB")
    return int(scaled)


def size(count: float) -> str:
    """Bytes -> ``512 MiB``; one digit after the point below ten."""
    value = float(count)
    index = 0
    while abs(value) >= 1023.95 and index < len(_NAMES) - 1:
        value /= 1024
        index += 1
    whole = index == 0 or value == int(value) or value >= 99.95
    return f"{value:.0f} {_NAMES[index]}" if whole else f"{value:.1f} {_NAMES[index]}"


def rate(per_second: float) -> str:
    """Bytes per second -> ``1.5 MiB/s``."""
    return f"{size(per_second)}/s"


def percent(value: float) -> str:
    """``12.3%``."""
    return f"{value:.1f}%"


def duration(seconds: float) -> str:
    """The two largest units: ``45s``, ``2m 05s``, ``3h 12m``, ``4d 1h``."""
    left = max(0, int(seconds))
    if left < 60:
        return f"{left}s"
    if left < 3600:
        return f"{left // 60}m {left % 60:02}s"
    if left < 86400:
        return f"{left // 3600}h {left % 3600 // 60:02}m"
    return f"{left // 86400}d {left % 86400 // 3600}h"


def nanoseconds(value: float) -> str:
    """A latency: ``850 ns``, ``12.5 us``, ``3.1 ms``, ``1.2 s``."""
    for limit, factor, unit in ((1e3, 1.0, "ns"), (1e6, 1e3, "us"), (1e9, 1e6, "ms")):
        if value < limit:
            return f"{value / factor:.0f} {unit}" if factor == 1.0 else f"{value / factor:.1f} {unit}"
    return f"{value / 1e9:.1f} s"
