"""What a full node's image is made of; a change here makes a new image.

The kernel is Debian's cloud kernel: ext4 is built in, device-mapper, LIO, iSCSI, NFS, bonding and VLANs are modules. It
is booted as ELF (PVH entry), which saves unpacking it under emulation.
"""

from __future__ import annotations

from typing import Final

SUITE: Final = "bookworm"
KERNEL_PACKAGE: Final = "linux-image-cloud-amd64"

PACKAGES: Final = (
    # what the agent itself needs of a host
    "python3", "python3-libvirt", "libvirt-daemon", "libvirt-clients", "qemu-system-x86", "qemu-utils", "openssl",
    # storage
    "lvm2", "dmsetup", "thin-provisioning-tools", "multipath-tools", "open-iscsi", "sg3-utils", "lsscsi", "nfs-common",
    "nfs-kernel-server", "sanlock", "python3-sanlock", "e2fsprogs", "xfsprogs",
    # networks
    "iproute2", "iputils-ping", "iputils-arping", "dnsmasq-base", "isc-dhcp-client", "nftables", "ethtool", "socat",
    "python3-pyroute2",
    # fencing: what fence_ipmilan needs (fence-agents itself is unpacked, it depends on every cloud's library)
    "ipmitool", "python3-pexpect", "python3-pycurl",
    # the rest of a machine
    "busybox-static", "kmod", "udev", "procps", "strace",
)  # fmt: skip
# Unpacked over the root, without what they depend on.
UNPACKED: Final = ("fence-agents",)
# Absent from the root: nobody reads them there.
WITHOUT: Final = ("doc", "man", "locale", "info", "lintian", "bash-completion", "iso-codes")

INITRAMFS_MODULES: Final = ("virtio_pci", "virtio_blk")
# Loaded in the template, so that no test waits for them.
WARM_MODULES: Final = ("dm_mod", "8021q", "bridge", "loop")
ROOT_SIZE_MIB: Final = 1600

# nokaslr … cryptomgr.notests: boot time under emulation. panic=-1 resets at once: QEMU runs with -no-reboot, so a node
# that panics is off. net.ifnames=0: udev would rename an interface while a test uses it.
CMDLINE: Final = (
    "console=ttyS0 root=/dev/vda tsc=reliable no_timer_check mitigations=off nokaslr panic=-1 rcupdate.rcu_expedited=1 "
    "nmi_watchdog=0 net.ifnames=0 audit=0 selinux=0 apparmor=0 random.trust_cpu=on cryptomgr.notests raid=noautodetect "
    "quiet loglevel=3"
)

# The BMC and fence_ipmilan on the machine that runs the nodes: unpacked, never installed.
TOOL_PACKAGES: Final = (
    "fence-agents", "ipmitool", "libfreeipmi17", "python3-pexpect", "python3-ptyprocess", "python3-pyghmi",
    "python3-six", "python3-dateutil", "python3-cryptography", "python3-cffi-backend",
)  # fmt: skip
