"""iSCSI: a LIO target with any number of portals (through configfs), initiators with dm-multipath.

Timeouts are short, so that a lost path is noticed in about five seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from lab.deadlines import eventually
from lab.node import Node

from . import daemons

_ROOT: Final = "/sys/kernel/config/target"
_TARGET: Final = """set -e
modprobe -a target_core_mod target_core_iblock iscsi_target_mod
mkdir -p {root}/iscsi/{iqn}/tpgt_1
cd {root}/iscsi/{iqn}/tpgt_1
for ip in {portals}; do mkdir np/$ip:3260; done
echo 0 > attrib/authentication
echo 1 > attrib/generate_node_acls
echo 1 > attrib/cache_dynamic_acls
echo 0 > attrib/demo_mode_write_protect
echo 1 > enable
"""
_LUN: Final = """set -e
cd {root}; core=core/iblock_0/lun{number}; mkdir -p $core
echo udev_path={device} > $core/control
echo {serial} > $core/wwn/vpd_unit_serial
echo 1 > $core/enable
tpg=iscsi/{iqn}/tpgt_1; mkdir $tpg/lun/lun_{number}
ln -s {root}/$core $tpg/lun/lun_{number}/storage
"""
_ISCSID: Final = {
    "node.session.timeo.replacement_timeout": 3,
    "node.conn[0].timeo.noop_out_interval": 1,
    "node.conn[0].timeo.noop_out_timeout": 2,
    "node.session.initial_login_retry_max": 2,
}
# multipath.conf takes one keyword per line. All paths are used in turn: the loss of any is felt.
_MULTIPATH: Final = """defaults {
    user_friendly_names no
    path_grouping_policy multibus
    path_selector "round-robin 0"
    polling_interval 1
    max_polling_interval 1
    find_multipaths no
    no_path_retry 4
    fast_io_fail_tmo 2
    dev_loss_tmo 60
}
blacklist {
    devnode "^vd"
}
"""


class Target:
    """A node that offers LUNs on all its portals, to everybody."""

    def __init__(self, node: Node, portals: Sequence[str]) -> None:
        """``portals``: the addresses to listen on."""
        self.node = node
        self.portals = tuple(portals)
        self.iqn = f"iqn.2024-01.lab:{node.name}"
        self._luns = 0
        node.run(_TARGET.format(root=_ROOT, iqn=self.iqn, portals=" ".join(portals)), timeout_s=120)

    def add_lun(self, device: str, serial: str) -> int:
        """Offer a block device; its number. The device must carry no volume group: this node's LVM would use it."""
        number = self._luns
        self.node.run(_LUN.format(root=_ROOT, iqn=self.iqn, number=number, device=device, serial=serial))
        self._luns += 1
        return number

    @contextmanager
    def portal_away(self, portal: str) -> Iterator[None]:
        """Packets to one portal vanish for a while: that path fails."""
        chain = f"chain i {{ type filter hook input priority -300; ip daddr {portal} tcp dport 3260 drop; }}"
        self.node.run(["nft", f"table inet lab_portal {{ {chain}; }}"])
        try:
            yield
        finally:
            self.node.run(["nft", "delete table inet lab_portal"])


class Initiator:
    """A node that uses LUNs, through multipathd."""

    def __init__(self, node: Node) -> None:
        self.node = node
        script = [f"sed -i '/^#* *{key.replace('[', '.').replace(']', '.')} *=/d' iscsid.conf" for key in _ISCSID]
        script += [f"echo '{key} = {value}' >> iscsid.conf" for key, value in _ISCSID.items()]
        node.run("set -e; cd /etc/iscsi; mkdir -p /run/lock/iscsi\n" + "\n".join(script))
        node.push("/etc/multipath.conf", _MULTIPATH)
        node.run("modprobe -a iscsi_tcp dm_multipath dm_round_robin dm_service_time sd_mod", timeout_s=120)
        node.run(["iscsid"], timeout_s=120)
        daemons.start(node, "multipathd", ["multipathd", "-d"])

    def login(self, target: Target) -> None:
        """Log in on every portal.

        Raises:
            CommandFailed: a portal does not answer or refuses.
        """
        for portal in target.portals:
            self.node.run(["iscsiadm", "-m", "discovery", "-t", "sendtargets", "-p", portal], timeout_s=120)
        self.node.run(["iscsiadm", "-m", "node", "-L", "all"], timeout_s=120)

    def logout(self) -> None:
        """End all sessions."""
        self.node.run(["iscsiadm", "-m", "node", "-U", "all"], timeout_s=120)

    def map(self, paths: int, timeout_s: float = 150.0) -> str:
        """The device of the only multipath map, once that many of its paths work.

        Raises:
            TooLate: they do not.
        """
        eventually(lambda: self.working_paths() == paths, f"{paths} working paths\n", timeout_s, 0.2)
        (name,) = self.node.run("dmsetup ls --target multipath | cut -f1").text.split()
        eventually(lambda: not self.node.run(["test", "-b", f"/dev/mapper/{name}"], check=False).code, name)
        return f"/dev/mapper/{name}"

    def working_paths(self) -> int:
        """How many paths multipathd thinks good."""
        return self.node.run(["multipathd", "show", "paths", "format", "%d %t %o"], check=False).text.count(
            "active running"
        )
