"""``python -m tests.lab``: a lab to play with; see cli.py."""

from __future__ import annotations

import sys
from pathlib import Path

# The lab's modules call one another as pytest finds them: from the directory of the tests.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
