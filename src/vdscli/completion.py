"""Shell completion: the scripts for the shells, and the candidates that they ask for.

The scripts know nothing of the commands: they call ``vdscli --complete SHELL WORD...``, where the last word is the one
that is being typed, and get lines of ``candidate TAB explanation``; a line ``:files`` means the names of files.
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING, Any, Final

from vdscli.failures import OK, CliError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vdscli.client import Client
    from vdscli.parser import Argument, CommandParser
    from vdscli.session import Session

FILES: Final = ":files"
_PATIENCE_S: Final = 1.0

_BASH: Final = """\
# bash completion for vdscli; made by: vdscli completion bash
_vdscli() {
    local candidate
    COMPREPLY=()
    while IFS=$'\\t' read -r candidate _; do
        if [[ $candidate == :files ]]; then
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]#=}")
            return
        fi
        [[ $candidate == *= ]] && compopt -o nospace
        COMPREPLY+=("$candidate")
    done < <("$1" --complete bash "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _vdscli vdscli
"""
_ZSH: Final = """\
#compdef vdscli
# zsh completion for vdscli; made by: vdscli completion zsh
_vdscli() {
    local line
    local -a plain open
    for line in "${(@f)$(${words[1]} --complete zsh "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        if [[ $line == :files ]]; then
            _files
            return
        fi
        [[ -n $line ]] || continue
        if [[ ${line%%$'\\t'*} == *= ]]; then
            open+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
        else
            plain+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
        fi
    done
    (( $#plain )) && _describe -t values vdscli plain
    (( $#open )) && _describe -t values vdscli open -S ''
}
if [[ $funcstack[1] == _vdscli ]]; then
    _vdscli "$@"
else
    compdef _vdscli vdscli
fi
"""
_FISH: Final = """\
# fish completion for vdscli; made by: vdscli completion fish
function __vdscli_candidates
    set -l words (commandline -opc)
    set -l program $words[1]
    set -e words[1]
    for line in ($program --complete fish $words (commandline -ct) 2>/dev/null)
        if test "$line" = ":files"
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c vdscli -f -a '(__vdscli_candidates)'
"""
SCRIPTS: Final = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}

Candidate = tuple[str, str]


def script(session: Session) -> None:
    """``completion``."""
    print(SCRIPTS[session.args.shell], end="")


def candidates(arguments: list[str]) -> int:
    """``--complete SHELL WORD...``: print what the last word could become."""
    shell, *words = arguments or ["bash"]
    words = joined(words) if shell == "bash" else words
    *before, current = words or [""]
    cut = _cut(shell, current)
    for text, words_of in Completer(before).of(current):
        shown = text[cut:] if text.startswith(current[:cut]) else text
        explained = " ".join(words_of.split())
        print(f"{shown}\t{explained}" if explained else shown)
    return OK


def joined(words: list[str]) -> list[str]:
    """Bash breaks words at ``=`` and ``:``; put them together again."""
    whole: list[str] = []
    glue = False
    for index, word in enumerate(words):
        if word in {"=", ":"} and index:
            whole[-1] += word
            glue = True
        elif glue:
            whole[-1] += word
            glue = False
        else:
            whole.append(word)
    return whole


def _cut(shell: str, current: str) -> int:
    """How much of the word bash has already behind it."""
    return max(current.rfind("="), current.rfind(":")) + 1 if shell == "bash" else 0


class Completer:
    """Knows what was typed before the word that is completed."""

    def __init__(self, before: list[str]) -> None:
        from vdscli.arguments import parser

        self._top = parser()
        self._parser: CommandParser = self._top
        self._values: dict[str, str] = {}
        self._pending: Argument | None = None
        self._positionals: list[str] = []
        self._only_positionals = False
        for word in before:
            self._take(word)

    def of(self, current: str) -> Iterator[Candidate]:
        """What the word can become."""
        for text, words in self._all(current):
            if text.startswith(current) or text == FILES:
                yield text, words

    def _take(self, word: str) -> None:
        if self._pending is not None:
            self._values[self._pending.action.dest] = word
            self._pending = None
        elif word == "--":
            self._only_positionals = True
        elif word.startswith("-") and word != "-" and not self._only_positionals:
            flag, equals, value = word.partition("=")
            found = self._option(flag)
            if found is not None and found.action.nargs != 0:
                if equals:
                    self._values[found.action.dest] = value
                else:
                    self._pending = found
        elif word in self._parser.filled().commands:
            self._parser = self._parser.commands[word].filled()
        else:
            self._positionals.append(word)

    def _option(self, flag: str) -> Argument | None:
        return next((item for item in self._options() if flag in item.action.option_strings), None)

    def _options(self) -> list[Argument]:
        known = self._parser.filled().known
        more = self._top.known if self._parser is not self._top and self._parser.commands else []
        return [item for item in [*known, *more] if item.action.option_strings]

    def _all(self, current: str) -> Iterator[Candidate]:
        if self._pending is not None:
            yield from self._values_of(self._pending, current)
        elif current.startswith("--") and "=" in current:
            flag = current.partition("=")[0]
            found = self._option(flag)
            for text, words in self._values_of(found) if found else ():
                yield (text if text == FILES else f"{flag}={text}"), words
        elif current.startswith("-") and not self._only_positionals:
            for item in self._options():
                yield item.action.option_strings[-1 if len(item.action.option_strings) < 3 else 1], _help(item)
            yield "--help", "explain the command"
        elif self._parser.filled().commands:
            for name, command in self._parser.commands.items():
                yield name, (command.description or "").rstrip(".")
        elif (positional := self._positional()) is not None:
            yield from self._values_of(positional, current)

    def _positional(self) -> Argument | None:
        items = [item for item in self._parser.known if not item.action.option_strings]
        if len(self._positionals) < len(items):
            return items[len(self._positionals)]
        return items[-1] if items and items[-1].action.nargs in {"*", "+"} else None

    def _values_of(self, item: Argument, current: str = "") -> Iterator[Candidate]:
        if item.action.choices:
            yield from ((str(choice), "") for choice in item.action.choices)
        elif item.complete == "file":
            yield FILES, ""
        elif item.complete == "verb":
            yield from _verbs()
        elif item.complete == "params":
            yield from _parameters(self._positionals[0], current)
        elif item.complete == "disk":
            yield from self._disks(current)
        elif item.complete == "nic":
            yield from (("user", "outgoing connections only"), ("network=", "a bridge of the host"))
        elif item.complete:
            yield from self._asked(item.complete)

    def _disks(self, current: str) -> Iterator[Candidate]:
        if current.startswith("image="):
            yield from ((f"image={name}", words) for name, words in self._asked("image"))
        else:
            yield from (("size=", "a new image in storage"), ("image=", "an image in storage"), (FILES, ""))

    def _asked(self, kind: str) -> Iterator[Candidate]:
        """Names that the agent knows; none when it does not answer soon."""
        from vdscli.client import Client
        from vdscli.session import place

        defaults = {
            item.action.dest: item.action.default
            for item in self._top.known
            if item.action.default is not argparse.SUPPRESS
        }
        try:
            client = Client(place(Namespace(**{**defaults, **self._values})), _PATIENCE_S)
            found = _names(client, kind)
        except CliError:
            return
        yield from ((name, words) for name, words in found if name not in self._positionals)


def _names(client: Client, kind: str) -> list[Candidate]:
    if kind == "token":
        return [(str(item["name"]), str(item["role"])) for item in client.get("/tokens")]
    if kind == "definition":
        return [(str(item["name"]), str(item["status"])) for item in client.get("/definitions")]
    if kind == "op":
        return [(ident, str(item["verb"])) for ident, item in client.get("/tasks/info").items()]
    if kind in {"storage", "image"}:
        return _storage_names(client, kind)
    from vdscli.inventory import inventory

    return [(vm.name, vm.status) for vm in inventory(client) if kind != "stopped" or (vm.is_down and vm.defined)]


def _storage_names(client: Client, kind: str) -> list[Candidate]:
    from vdscli import storage_inventory

    known = storage_inventory.storages(client)
    if kind == "storage":
        return [(item.name or item.domain_id, item.type) for item in known]
    active = [item for item in known if item.status == "active"]
    return [(image.name or image.image_id, image.storage.name) for image in storage_inventory.images(client, active)]


def _verbs() -> Iterator[Candidate]:
    from vdscli.raw_calls import verbs

    yield from ((name, str(item["summary"])) for name, item in verbs().items())


def _parameters(verb: str, current: str) -> Iterator[Candidate]:
    from vdscli.raw_calls import choices, verbs

    item: dict[str, Any] = verbs().get(verb, {"params": []})
    for param in item["params"]:
        start = f"{param['name']}="
        if current.startswith(start):
            yield from ((f"{start}{choice}", "") for choice in choices(param["type"]))
        else:
            yield start, f"{param['type']}{', required' if param['required'] else ''}"


def _help(item: Argument) -> str:
    return "" if item.action.help in {None, argparse.SUPPRESS} else str(item.action.help)
