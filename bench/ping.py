"""Host.ping over STOMP and TLS: rate, latency, what it costs the server; and whether long answers are held up.

    python -m bench.ping                          the whole agent, on the simulated hypervisor
    python -m bench.ping --transport              the transport alone
    python -m bench.ping --port 54321 --pid PID --pki /etc/pki/vdsm     a running daemon

One request is outstanding per connection, as with the Engine's threads. Clients share the processors with the server,
so that the server's CPU per request (from /proc/PID/stat, kernel time included) says more than the rate.
"""

from __future__ import annotations

import argparse
import multiprocessing
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.agents import ROOT, TICKS, Agent, place
from bench.client import Connection, Pki, request
from bench.figures import Figure, finish, median_of, progress
from bench.quiet import rest

# The original, on a machine of this kind: requests a second with 1 and with 8 connections.
ORIGINAL = {1: 2098.0, 8: 3710.0}
CLIENTS = 2


@dataclass(frozen=True)
class Server:
    """A server to be measured."""

    port: int
    pid: int
    pki: Pki

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


@dataclass(frozen=True)
class Run:
    """What one run showed."""

    rate: float
    cpu_ms: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    size: int


def drive(server: Server, message: bytes, connections: int, start: float, seconds: float, results) -> None:
    """A client process: keeps one request outstanding on each of its connections."""
    opened = {}
    poll = select.epoll()
    for _ in range(connections):
        connection = Connection(server.port, server.pki)
        opened[connection.socket.fileno()] = connection
        poll.register(connection.socket.fileno(), select.EPOLLIN)
    time.sleep(max(0.0, start - time.monotonic()))
    took: list[float] = []
    size = 0
    until = start + seconds
    sent = {}
    clock = time.monotonic
    for number, connection in opened.items():
        sent[number] = clock()
        connection.socket.sendall(message)
    while clock() < until:
        for number, _ in poll.poll():
            connection = opened[number]
            size = connection.skip()
            now = clock()
            took.append(now - sent[number])
            sent[number] = now
            connection.socket.sendall(message)
    for connection in opened.values():
        connection.close()
    results.put((took, size))


def measure(server: Server, message: bytes, connections: int, seconds: float) -> Run:
    """One run of so many connections, from at most two client processes."""
    rest(0.2)
    results: multiprocessing.Queue = multiprocessing.Queue()
    start = time.monotonic() + 0.7
    counts = [share for number in range(CLIENTS) if (share := (connections + number) // CLIENTS)]
    clients = [
        multiprocessing.Process(target=drive, args=(server, message, count, start, seconds, results))
        for count in counts
    ]
    for client in clients:
        client.start()
    time.sleep(max(0.0, start + 0.1 - time.monotonic()))
    before_s, began_s = server.cpu_s(), time.monotonic()
    time.sleep(seconds - 0.3)
    used_s, elapsed_s = server.cpu_s() - before_s, time.monotonic() - began_s
    took: list[float] = []
    size = 0
    for _ in clients:
        times, size = results.get(timeout=60)
        took += times
    for client in clients:
        client.join(10)
    took.sort()
    rate = len(took) / seconds
    return Run(
        rate=rate,
        cpu_ms=used_s / (rate * elapsed_s) * 1000,
        p50_ms=statistics.median(took) * 1000,
        p99_ms=took[int(len(took) * 0.99)] * 1000,
        max_ms=took[-1] * 1000,
        size=size,
    )


def ping_figures(server: Server, connections: int, runs: int, seconds: float) -> list[Figure]:
    done = [measure(server, request("Host.ping"), connections, seconds) for _ in range(runs)]
    name = f"Host.ping, {connections} connection{'s' if connections > 1 else ''}"
    original = ORIGINAL.get(connections)
    several = connections > 1
    return [
        median_of(
            f"{name}: requests a second",
            [run.rate for run in done],
            "/s",
            3 * original if original else None,
            "at least",
            f"the original {original:,.0f}" if original else "",
        ),
        median_of(f"{name}: server CPU", [run.cpu_ms for run in done], "ms", 0.09 if several else None),
        median_of(f"{name}: median latency", [run.p50_ms for run in done], "ms"),
        median_of(f"{name}: 99th percentile", [run.p99_ms for run in done], "ms", 3.0 if several else None),
    ]


def size_figures(server: Server, runs: int, asker: Callable[[int], bytes]) -> list[Figure]:
    """Answers of 13 and 26 kB, by turns: Nagle's algorithm or a delayed ACK would show as 40 ms."""
    small, large = [], []
    for _ in range(runs):
        small.append(measure(server, asker(13_000), 1, 1.0).p50_ms)
        large.append(measure(server, asker(26_000), 1, 1.0).p50_ms)
    return [
        median_of("answer of 13 kB: latency", small, "ms"),
        median_of("answer of 26 kB: latency", large, "ms"),
        median_of("26 kB beside 13 kB", [two - one for one, two in zip(small, large, strict=True)], "ms", 1.0),
    ]


def figures(*, runs: int = 5, seconds: float = 4.0) -> list[Figure]:
    """Against the whole agent."""
    with place() as where, Agent(where, 0) as agent:
        agent.wait_ready()
        server = Server(where.port, agent.pid, where.pki)
        time.sleep(2.0)
        found = []
        for connections in ORIGINAL:
            progress(f"Host.ping with {connections} connections")
            found += ping_figures(server, connections, runs, seconds)
        progress("long answers")
        found += size_figures(server, runs, lambda size: request("Host.echo", {"message": "x" * size}))
        return found


def transport(runs: int, seconds: float) -> list[Figure]:
    """Against the transport alone."""
    with place() as where:
        command = [sys.executable, "-m", "bench.transport", str(where.directory)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
        try:
            assert server.stdout is not None
            measured = Server(int(server.stdout.readline()), server.pid, where.pki)
            found = [figure for count in ORIGINAL for figure in ping_figures(measured, count, runs, seconds)]
            sizes = {13_000: "Size.small", 26_000: "Size.large"}
            return [*found, *size_figures(measured, runs, lambda size: request(sizes[size]))]
        finally:
            server.terminate()
            server.wait(10)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int)
    parser.add_argument("--pid", type=int)
    parser.add_argument("--pki", type=Path, default=Path("/etc/pki/vdsm"))
    parser.add_argument("--connections", type=int, nargs="+", default=list(ORIGINAL))
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--transport", action="store_true")
    options = parser.parse_args(argv)
    if options.transport:
        return finish(transport(options.runs, options.seconds))
    if options.port is None:
        return finish(figures(runs=options.runs, seconds=options.seconds))
    pki = Pki(*(options.pki / name for name in ("certs/cacert.pem", "certs/vdsmcert.pem", "keys/vdsmkey.pem")))
    server = Server(options.port, options.pid, pki)
    return finish([
        figure for count in options.connections for figure in ping_figures(server, count, options.runs, options.seconds)
    ])


if __name__ == "__main__":
    sys.exit(main())
