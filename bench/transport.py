"""The transport with a few verbs that do nothing, on a free port that it prints.

python -m bench.transport DIRECTORY         of a bench.agents.place
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvloop

from bench.agents import TESTS  # noqa: F401 - makes the tests' parts importable

from wire import serve_forever  # isort: skip

if __name__ == "__main__":
    uvloop.run(serve_forever(Path(sys.argv[1])))
