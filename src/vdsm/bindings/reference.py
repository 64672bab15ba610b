"""The reference of the API for people: one model of all verbs and types, shown as Markdown and as HTML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import msgspec

from vdsm.api.contract import Answer, Verb
from vdsm.api.events import EVENTS
from vdsm.bindings.arguments import placed
from vdsm.bindings.manual import all_errors, failures, first_line, manual_of, namespaces
from vdsm.bindings.openapi import VERSION, Schemas
from vdsm.bindings.problems import HTTP_ERRORS, INTERNAL, INTERNAL_CODE

TITLE: Final = "VDSM API reference"
INTRODUCTION: Final = """\
Every verb of the agent, with its REST route and its JSON-RPC name. REST is below `/api/v1`, with clean names and
values; JSON-RPC 2.0 speaks over STOMP, and over HTTP at `/api/v1/jsonrpc`, with the names of the oVirt protocol.

Callers prove who they are by a client certificate, by the kernel's word on the local unix socket, or by
`Authorization: Bearer` with a token that `vdscli token create` made. A verb needs a role: viewer, operator or
admin, each of which includes those before it.

REST errors are problems (RFC 9457, `application/problem+json`) with the error's stable name in `type`, and the
wrong field in `field`. `GET /api/v1/events` streams events, `/metrics` is for Prometheus,
`/api/v1/openapi.json` is the OpenAPI document. Send `X-Correlation-Id` to find a request in the host's log.
"""
_CODE: Final = re.compile(r"``?([^`]+)``?")


@dataclass(frozen=True, slots=True)
class Row:
    """One parameter or field."""

    name: str
    type: str
    need: str
    text: str
    place: str = ""
    wire_name: str = ""


@dataclass(frozen=True, slots=True)
class VerbPage:
    """What the reference says of a verb."""

    name: str
    summary: str
    body: str
    method: str
    path: str
    role: str
    legacy: str
    params: tuple[Row, ...]
    result: str
    errors: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True, slots=True)
class TypePage:
    """What the reference says of a type."""

    name: str
    text: str
    fields: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """Everything."""

    spaces: tuple[tuple[str, str, tuple[VerbPage, ...]], ...]
    events: tuple[tuple[str, str, str], ...]
    types: tuple[TypePage, ...]
    errors: tuple[tuple[str, int, int, str], ...]


def reference_of(verbs: Mapping[str, Verb]) -> Reference:
    """Gather the reference."""
    schemas = Schemas(verbs.values())
    spaces = tuple(
        (
            name,
            first_line(protocol),
            tuple(_verb_page(verb, schemas) for verb in verbs.values() if verb.namespace == name),
        )
        for name, protocol in namespaces().items()
    )
    return Reference(
        spaces=spaces,
        events=tuple((event.operation, event.__name__, first_line(event)) for event in EVENTS),
        types=tuple(_type_page(name, schema) for name, schema in schemas.components.items() if "properties" in schema),
        errors=tuple(_errors()),
    )


def _errors() -> Iterator[tuple[str, int, int, str]]:
    for kind in sorted({*all_errors(), *HTTP_ERRORS}, key=lambda kind: kind.name):
        yield kind.name, kind.status, kind.code, first_line(kind)
    yield INTERNAL, 500, INTERNAL_CODE, "An error inside the agent; its log has more."


def verb_list(verbs: Mapping[str, Verb]) -> list[dict[str, Any]]:
    """All verbs under their JSON-RPC names, for the command line's help and completion."""
    schemas = Schemas(verbs.values())
    return [_listed(verb, schemas) for verb in verbs.values()]


def _listed(verb: Verb, schemas: Schemas) -> dict[str, Any]:
    manual = manual_of(verb)
    return {
        "name": verb.name,
        "summary": manual.summary,
        "doc": manual.text,
        "params": [
            {
                "name": param.wire_name,
                "rest_name": param.name,
                "type": type_text(schemas.of(param.type)),
                "required": param.required,
                "default": None if param.required else msgspec.to_builtins(param.default),
                "description": manual.args.get(param.name, ""),
            }
            for param in verb.params
        ],
        "result": _result_text(verb, schemas, wire=True),
        "errors": {kind.name: when for kind, when in failures(verb).items()},
        "role": verb.role.value,
        "rest": {"method": verb.rest.method, "path": verb.rest.path},
        "legacy": verb.legacy,
        "since": verb.since,
    }


def _result_text(verb: Verb, schemas: Schemas, *, wire: bool) -> str:
    if verb.result is type(None):
        return "true" if wire else ""
    text = type_text(schemas.of(verb.result))
    return f"array of one {text}" if wire and verb.answer is Answer.LIST else text


def _verb_page(verb: Verb, schemas: Schemas) -> VerbPage:
    manual = manual_of(verb)
    places = placed(verb)
    return VerbPage(
        name=verb.name,
        summary=manual.summary,
        body=manual.body,
        method=verb.rest.method,
        path=f"/api/v1{verb.rest.path}",
        role=verb.role.value,
        legacy=verb.legacy or "",
        params=tuple(
            Row(
                name=param.name,
                type=type_text(schemas.of(param.type)),
                need="required" if param.required else _default_text(schemas.of_param(param)),
                text=manual.args.get(param.name, ""),
                place=places[param.name].value if param.name in places else "JSON-RPC only",
                wire_name=param.wire_name,
            )
            for param in verb.params
        ),
        result=_result_text(verb, schemas, wire=False),
        errors=tuple((kind.name, kind.status, when) for kind, when in failures(verb).items()),
    )


def _type_page(name: str, schema: Mapping[str, Any]) -> TypePage:
    required = set(schema.get("required", ()))
    rows = tuple(
        Row(
            name=field,
            type=type_text(member),
            need="required" if field in required else _default_text(member),
            text=member.get("description", ""),
        )
        for field, member in schema["properties"].items()
    )
    return TypePage(name, schema.get("description", ""), rows)


def _default_text(schema: Mapping[str, Any]) -> str:
    default = schema.get("default")
    return "optional" if isinstance(default, dict | list) or default in {None, ""} else json.dumps(default)


def type_text(schema: Mapping[str, Any]) -> str:
    """A schema in words: ``array of integer from 0 to 9``."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(type_text(member) for member in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    kind = schema.get("type", "any")
    if kind == "array":
        return f"array of {type_text(schema.get('items', {}))}"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"object of {type_text(inner)}" if isinstance(inner, dict) and inner else "object"
    return f"{kind}{_bounds_text(schema)}"


def _bounds_text(schema: Mapping[str, Any]) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f" from {schema['minimum']} to {schema['maximum']}"
    if "minimum" in schema:
        return f" from {schema['minimum']}"
    return ""


# Markdown


def markdown(reference: Reference) -> str:
    """The reference as one Markdown page."""
    lines = [f"# {TITLE}", "", "Generated from the contract by `make docs`; do not edit.", ""]
    lines += [INTRODUCTION]
    for name, text, pages in reference.spaces:
        lines += [f"## {name}", "", text, ""]
        for page in pages:
            lines += _verb_markdown(page)
    lines += ["## Events", ""]
    lines += _table(("Event", "Type", ""), [(f"`{name}`", kind, text) for name, kind, text in reference.events])
    lines += ["## Errors", ""]
    lines += _table(
        ("Name", "HTTP", "Code", ""),
        [(f"`{name}`", str(status), str(code), text) for name, status, code, text in reference.errors],
    )
    lines += ["## Types", ""]
    for kind in reference.types:
        lines += [f"### {kind.name}", "", kind.text, ""]
        lines += _table(
            ("Field", "Type", "", ""), [(f"`{row.name}`", row.type, row.need, row.text) for row in kind.fields]
        )
    return "\n".join(lines).rstrip() + "\n"


def _verb_markdown(page: VerbPage) -> Iterator[str]:
    yield from (f"### {page.name}", "", f"`{page.method} {page.path}` - role {page.role}", "", page.summary, "")
    if page.body:
        yield from (page.body, "")
    if page.params:
        rows = [(f"`{row.name}`", f"`{row.wire_name}`", row.place, row.type, row.need, row.text) for row in page.params]
        yield from _table(("Parameter", "JSON-RPC", "In", "Type", "", ""), rows)
    if page.result:
        yield from (f"Answer: {page.result}", "")
    yield from ("Errors: " + ", ".join(f"`{name}` ({status})" for name, status, _ in page.errors), "")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return [*lines, ""]


# HTML


def html(reference: Reference) -> str:
    """The reference as one HTML page, which needs only the style sheet beside it."""
    types = {page.name for page in reference.types}
    body = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{TITLE}</title>",
        '<link rel="stylesheet" href="/docs/reference.css"></head><body id="top">',
        *_navigation(reference),
        f"<main><h1>{TITLE} <small>{VERSION}</small></h1>",
        *(f"<p>{_prose(paragraph)}</p>" for paragraph in INTRODUCTION.split("\n\n")),
        '<p><a href="/api/v1/openapi.json">OpenAPI 3.1 document</a></p>',
    ]
    for name, text, pages in reference.spaces:
        body.append(f'<h2 id="{name}-verbs">{name}</h2><p>{_prose(text)}</p>')
        for page in pages:
            body += _verb_html(page, types)
    body += _events_html(reference)
    body += _errors_html(reference)
    body.append('<h2 id="types">Types</h2>')
    for kind in reference.types:
        body.append(f'<section id="{kind.name}"><h3>{kind.name}</h3><p>{_prose(kind.text)}</p>')
        body += _html_table(
            ("Field", "Type", "", ""),
            ((_code(row.name), _type_html(row.type, types), escape(row.need), _prose(row.text)) for row in kind.fields),
        )
        body.append("</section>")
    body.append("</main></body></html>")
    return "\n".join(body) + "\n"


def _navigation(reference: Reference) -> Iterator[str]:
    yield '<nav><a class="home" href="#top">VDSM</a>'
    for name, _, pages in reference.spaces:
        yield f'<details open><summary><a href="#{name}-verbs">{name}</a></summary><ul>'
        for page in pages:
            short = page.name.partition(".")[2]
            yield f'<li><a href="#{page.name}">{short}</a></li>'
        yield "</ul></details>"
    yield '<p><a href="#events">Events</a></p><p><a href="#errors">Errors</a></p>'
    yield '<details><summary><a href="#types">Types</a></summary><ul>'
    for kind in reference.types:
        yield f'<li><a href="#{kind.name}">{kind.name}</a></li>'
    yield "</ul></details></nav>"


def _verb_html(page: VerbPage, types: set[str]) -> Iterator[str]:
    yield f'<section id="{page.name}"><h3>{page.name}</h3>'
    yield f'<p class="route"><b class="{page.method}">{page.method}</b> <code>{escape(page.path)}</code>'
    yield f'<span class="role">{page.role}</span></p><p>{_prose(page.summary)}</p>'
    if page.body:
        yield f"<p>{_prose(page.body)}</p>"
    if page.params:
        yield from _html_table(
            ("Parameter", "In", "Type", "", "JSON-RPC", ""),
            (
                (
                    _code(row.name),
                    escape(row.place),
                    _type_html(row.type, types),
                    escape(row.need),
                    _code(row.wire_name),
                    _prose(row.text),
                )
                for row in page.params
            ),
        )
    if page.result:
        yield f"<p>Answer: {_type_html(page.result, types)}</p>"
    yield "<details><summary>Errors</summary><ul>"
    for name, status, when in page.errors:
        yield f'<li><a href="#error-{name}"><code>{name}</code></a> {status}: {_prose(when)}</li>'
    yield "</ul></details></section>"


def _events_html(reference: Reference) -> Iterator[str]:
    yield '<h2 id="events">Events</h2><p><code>GET /api/v1/events</code> streams them, each named by its operation.</p>'
    rows = ((_code(name), f'<a href="#{kind}">{kind}</a>', _prose(text)) for name, kind, text in reference.events)
    yield from _html_table(("Event", "Type", ""), rows)


def _errors_html(reference: Reference) -> Iterator[str]:
    yield '<h2 id="errors">Errors</h2><p>The names are stable; the code is the JSON-RPC error\'s.</p>'
    rows = (
        (f'<code id="error-{name}">{name}</code>', str(status), str(code), _prose(text))
        for name, status, code, text in reference.errors
    )
    yield from _html_table(("Name", "HTTP", "Code", ""), rows)


def _html_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield "<table><thead><tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr></thead><tbody>"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
    yield "</tbody></table>"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _prose(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text, quote=False))


def _type_html(text: str, types: set[str]) -> str:
    return " ".join(f'<a href="#{word}">{word}</a>' if word in types else escape(word) for word in text.split(" "))
