"""Random operations on images in memory agree with a simple model of images, content included."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from image_memory import MemoryWorld
from image_model import Player


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1 << 32))
def test_random_operations_agree_with_the_model(seed: int) -> None:
    world = MemoryWorld()
    operations = world.operations()
    try:
        Player(world, operations, seed).play(20)
    finally:
        assert operations.stop(30)
