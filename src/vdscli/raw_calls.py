"""Any verb called with JSON; the verbs and their manual come from verbs.json, which is made from the contract."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vdscli.failures import FAILED, NOT_FOUND, OK, UNREACHABLE, USAGE, CliError

if TYPE_CHECKING:
    from vdscli.session import Session

VERBS_FILE: Final = Path(__file__).with_name("verbs.json")
_PARSE_ERROR: Final = -32700
_INVALID_PARAMS: Final = -32602
_MAX_STDIN: Final = 8 << 20


class BadParams(CliError):
    """The parameters are not JSON, or not an object; ``code`` is JSON-RPC's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message, FAILED)
        self.code = code

    def facts(self) -> dict[str, Any]:
        """As the agent would have said it."""
        return {"code": self.code, "message": str(self)}


def call(session: Session) -> int:
    """``call``."""
    args = session.args
    if args.list_verbs:
        return _list(session)
    if args.verb is None:
        raise CliError("call: which verb? 'vdscli call --list' names them", USAGE)
    try:
        result = session.client.rpc(args.verb, parameters(args.params, types_of(args.verb)))
    except CliError as error:
        print(json.dumps(error.facts(), ensure_ascii=False), file=sys.stderr)
        return error.exit_code if error.exit_code == UNREACHABLE else FAILED
    session.out.value(result)
    return OK


def verbs() -> dict[str, dict[str, Any]]:
    """All verbs by name.

    Raises:
        CliError: the list is not installed.
    """
    try:
        document = json.loads(VERBS_FILE.read_bytes())
    except (OSError, ValueError) as error:
        raise CliError(f"cannot read {VERBS_FILE}: {error}", FAILED) from error
    return {item["name"]: item for item in document["verbs"]}


def types_of(verb: str) -> dict[str, str]:
    """The type of each parameter of a verb, in words; empty for a verb that this client does not know."""
    try:
        found = verbs().get(verb)
    except CliError:
        return {}
    return {item["name"]: item["type"] for item in found["params"]} if found else {}


def parameters(words: list[str], types: dict[str, str]) -> dict[str, Any]:
    """The parameters that were typed: a JSON object, ``-`` for one on stdin, or ``name=value`` words.

    Raises:
        BadParams: it is none of that.
    """
    if len(words) == 1 and not _is_pair(words[0]):
        text = sys.stdin.read(_MAX_STDIN) if words[0] == "-" else words[0]
        return _object(text)
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise BadParams(_INVALID_PARAMS, f"{word}: is neither NAME=VALUE nor the only JSON object")
        found[name] = value if is_text(types.get(name, "")) else _value(value)
    return found


def is_text(words: str) -> bool:
    """Whether a type's words mean a text: ``string``, ``string or null``, ``keep | disconnect``."""
    words = words.removesuffix(" or null")
    return (words.startswith("string") and " or " not in words) or bool(choices(words))


def choices(words: str) -> list[str]:
    """The texts that are possible, where the type's words list them."""
    found = words.removesuffix(" or null").split(" | ")
    return found if len(found) > 1 else []


def _is_pair(word: str) -> bool:
    return word.partition("=")[0].replace("_", "").isalnum() and "=" in word


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadParams(_PARSE_ERROR, f"params: is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadParams(_INVALID_PARAMS, f"params: must be a JSON object, not {type(found).__name__}")
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _list(session: Session) -> int:
    found = verbs()
    if session.out.as_json:
        session.out.value(list(found.values()))
    elif session.args.quiet:
        for name in found:
            session.out.line(name)
    else:
        space = max(map(len, found), default=0)
        for name, item in found.items():
            session.out.line(f"{name:{space}}  {item['summary']}")
    return OK


def manual(verb: str) -> int:
    """``call VERB --help``."""
    found = verbs().get(verb)
    if found is None:
        raise CliError(f"there is no verb {verb}; 'vdscli call --list' names them", NOT_FOUND)
    rest = found["rest"]
    print(f"usage: vdscli call {verb} {_usage(found['params'])}".rstrip())
    print(f"\n{found['doc'].strip()}")
    _section("parameters", [(item["name"], _parameter(item)) for item in found["params"]])
    _section("errors", list(found["errors"].items()))
    print(f"\nresult: {found['result']}")
    print(f"needs the role {found['role']}; in REST: {rest['method']} /api/v1{rest['path']}")
    return OK


def _section(title: str, rows: list[tuple[str, str]]) -> None:
    if rows:
        print(f"\n{title}:")
    space = max((len(name) for name, _ in rows), default=0)
    for name, words in rows:
        print(f"  {name:{space}}  {words}")


def _usage(params: list[dict[str, Any]]) -> str:
    pairs = [f"{json.dumps(item['name'])}: ..." for item in params if item["required"]]
    shown = f"'{{{', '.join(pairs)}}}'" if pairs else ""
    return shown or ("['{...}']" if params else "")


def _parameter(item: dict[str, Any]) -> str:
    words = str(item["type"])
    if item["required"]:
        words += ", required"
    elif item["default"] not in (None, "", [], {}):
        words += f", default {json.dumps(item['default'], ensure_ascii=False)}"
    return f"{words}: {item['description']}" if item["description"] else words
