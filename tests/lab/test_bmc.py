"""The BMC's power switch really switches a node."""

from __future__ import annotations

import pytest

from .deadlines import eventually
from .roles.bmc import Bmc, fence, options

pytestmark = [pytest.mark.node, pytest.mark.timeout(300)]
BOOT_ID = ["cat", "/proc/sys/kernel/random/boot_id"]


def test_fence_agent_switches_a_node(nodes, lab) -> None:
    (node,) = nodes(1)
    before = node.run(BOOT_ID).text
    with Bmc(node, lab.spawner) as bmc:
        assert fence(bmc, "status").returncode == 0
        assert fence(bmc, "off").returncode == 0
        assert not node.is_on
        assert fence(bmc, "status").returncode == 2  # off
        assert fence(bmc, "on").returncode == 0
        assert node.is_on
        assert fence(bmc, "reboot", "--method=cycle").returncode == 0
        assert bmc.commands == ["off", "on", "cycle"]
    assert node.run(BOOT_ID).text != before


def test_wrong_password_switches_nothing(nodes, lab) -> None:
    (node,) = nodes(1)
    with Bmc(node, lab.spawner) as bmc:
        assert fence(bmc, "off", password="wrong").returncode
        assert bmc.commands == []
        assert node.is_on


def test_node_fences_another_through_its_bmc(nodes, lab) -> None:
    survivor, failed = nodes(2)
    lab.plug_outside(survivor)
    with Bmc(failed, lab.spawner) as bmc:
        agent = ["fence_ipmilan", *options(lab.OUTSIDE, bmc.port), "--action=off"]
        survivor.run(agent, timeout_s=180)
        eventually(lambda: not failed.is_on, "the failed node's end")
    assert survivor.is_on
