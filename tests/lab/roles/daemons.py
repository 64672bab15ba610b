"""Starts programs in a node that stay, with their output in /run/lab, which is kept for a failed test."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import join

from lab.node import Node


def start(node: Node, name: str, argv: Sequence[str], env: dict[str, str] | None = None) -> None:
    """Start a program that stays (in the foreground or by itself in the background) when the call has ended."""
    node.run(f"mkdir -p /run/lab; exec setsid -f {join(argv)} >>/run/lab/{name}.log 2>&1 </dev/null", env=env)


def stop(node: Node, name: str, number: int = 15) -> None:
    """Send a signal to all processes of that name; none is no error."""
    node.run(["pkill", f"-{number}", "-x", name], check=False)
