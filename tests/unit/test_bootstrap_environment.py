"""The virtual environment, when nothing has to be installed."""

from __future__ import annotations

import json
from pathlib import Path

from vds_bootstrap import environment


def test_modules_are_compiled_even_when_all_is_there(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    package = tmp_path / "src" / "package"
    package.mkdir(parents=True)
    (package / "module.py").write_text("answer = 42\n")
    commands = tmp_path / ".venv" / "bin"
    commands.mkdir(parents=True)
    (commands / "vdsmd").touch()
    stamp = {"made_from": environment._recipe(tmp_path), "dev": False}
    (tmp_path / ".venv" / "made-from.json").write_text(json.dumps(stamp))

    assert environment.ensure(tmp_path, dev=False) == "all there"
    assert [found.suffix for found in (package / "__pycache__").iterdir()] == [".pyc"]
