"""Light hosts and full nodes in one network."""

from __future__ import annotations

import pytest

from .deadlines import eventually
from .hosts import PORT

pytestmark = [pytest.mark.light, pytest.mark.node]


def test_node_reaches_a_light_host(hosts, nodes, lab) -> None:
    light = hosts(1)
    (node,) = nodes(1, nics=["lan"])
    light.lan.join(lab.network("lan"))
    node.run(["ip", "address", "add", "198.51.100.101/24", "dev", "lan0"])
    connect = f"import socket; socket.create_connection(('{light[0].address}', {PORT}), 10)"
    node.run(["python3", "-c", connect])
    listener = node.start(["python3", "-m", "http.server", "-b", "198.51.100.101", "8000"])
    fetch = ["python3", "-c", "import urllib.request as u; u.urlopen('http://198.51.100.101:8000', timeout=10)"]
    eventually(lambda: not light[0].run(fetch, check=False), "the node answers the host")
    listener.kill()
