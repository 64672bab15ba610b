"""Functions that are shipped into nodes (Node.call): each stands alone and imports what it needs."""

from __future__ import annotations

from typing import Any


def identify(name: str, now: float, entropy: str, machine_uuid: str) -> None:
    """Make this clone one of its own: without it all clones draw the same random numbers and have the same ids."""
    import base64
    import fcntl
    import socket
    import subprocess
    import time
    import uuid
    from pathlib import Path

    with Path("/dev/urandom").open("wb", buffering=0) as pool:
        pool.write(base64.b64decode(entropy))
        fcntl.ioctl(pool, 0x5207)  # RNDRESEEDCRNG: use it from now on
    time.clock_settime(time.CLOCK_REALTIME, now)
    socket.sethostname(name)
    texts = {
        "/etc/hostname": f"{name}\n",
        "/etc/hosts": f"127.0.0.1 localhost {name}\n::1 localhost\n",
        "/etc/machine-id": f"{uuid.uuid4().hex}\n",
        "/etc/iscsi/initiatorname.iscsi": f"InitiatorName=iqn.2024-01.lab:{name}\n",
        "/run/boot_id": f"{uuid.uuid4()}\n",
        "/run/product_uuid": f"{machine_uuid}\n",
    }
    for path, text in texts.items():
        Path(path).write_text(text, encoding="utf-8")
    places = {"/run/boot_id": "/proc/sys/kernel/random/boot_id", "/run/product_uuid": "/sys/class/dmi/id/product_uuid"}
    for source, target in places.items():
        subprocess.run(["busybox", "mount", "-o", "bind", source, Path(target).resolve()], check=True)


def settle(nics: list[dict[str, Any]], serials: list[str], deadline_s: float) -> dict[str, str]:
    """Wait for plugged devices; name the NICs and give them their addresses; the disks' device names by serial."""
    import subprocess
    import time
    from pathlib import Path

    def text(path: Path) -> str:
        try:
            return path.read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            return ""

    def found() -> tuple[dict[str, str], dict[str, str]]:
        interfaces = {
            text(folder / "address"): folder.name
            for folder in Path("/sys/class/net").iterdir()
            if (folder / "device").exists() and not (folder / "master").exists()
        }
        disks = {text(folder / "serial"): Path("/dev") / folder.name for folder in Path("/sys/block").glob("vd*")}
        return interfaces, {serial: str(path) for serial, path in disks.items() if path.exists()}

    end = time.monotonic() + deadline_s
    while True:
        interfaces, disks = found()
        missing = [nic["mac"] for nic in nics if nic["mac"] not in interfaces] + [s for s in serials if s not in disks]
        if not missing:
            break
        if time.monotonic() > end:
            raise TimeoutError(f"not there: {missing}")
        time.sleep(0.02)
    lines = []
    for nic in nics:
        lines.append(f"link set dev {interfaces[nic['mac']]} name {nic['name']}")
        lines.append(f"link set dev {nic['name']} up")
        if nic["address"]:
            lines.append(f"address replace {nic['address']} dev {nic['name']}")
    if lines:
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines).encode(), check=True)
    return {serial: disks[serial] for serial in serials}


def mount_project(device_serial: str, where: str) -> None:
    """Mount the project's tree."""
    import subprocess
    from pathlib import Path

    for folder in Path("/sys/block").glob("vd*"):
        serial = folder / "serial"
        if serial.exists() and serial.read_text(encoding="ascii").strip() == device_serial:
            device = f"/dev/{folder.name}"
            subprocess.run(["busybox", "mount", "-t", "ext4", "-o", "ro,noload", device, where], check=True)
            return
    raise FileNotFoundError(device_serial)
