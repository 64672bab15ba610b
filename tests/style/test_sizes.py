"""The house's limits that no linter holds: module and function length, a docstring on every module."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "src").rglob("*.py"))
MODULE_LINES = 500
FUNCTION_LINES = 40


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_lines(text: str) -> set[int]:
    """The numbers of the lines that carry code: not blank, not comment only."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            found.update(range(token.start[0], token.end[0] + 1))
    return found


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> set[int]:
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is None:
        return set()
    return set(range(first.lineno, (first.end_lineno or first.lineno) + 1))


def long_functions(text: str) -> list[str]:
    lines = code_lines(text)
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = lines & set(range(node.lineno, (node.end_lineno or node.lineno) + 1)) - docstring_lines(node)
            if len(inside) > FUNCTION_LINES:
                found.append(f"{node.name} has {len(inside)} lines of code")
    return found


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_module_is_small_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MODULE_LINES
    assert ast.get_docstring(ast.parse(text)), "no docstring"
    assert long_functions(text) == []


def test_gate_sees_what_it_is_there_for() -> None:
    body = "\n".join(f"    x = {number}\n    # a comment\n" for number in range(FUNCTION_LINES))
    assert long_functions(f'def f():\n    """Long\n\n\n    docstring."""\n{body}') == ["f has 41 lines of code"]
    assert long_functions(f"def f():\n{body[: body.rindex('x = ')]}pass") == ["f has 41 lines of code"]
    assert long_functions("def f():\n    return 1\n") == []
