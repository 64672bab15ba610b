"""The OpenAPI 3.1 document of the REST API, made from the verbs' declarations.

Schemas come from the clean types, descriptions from docstrings, problem responses from the errors that a verb names.
The daemon serves the generated file; this runs when the file is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from vdsm.api.contract import Param, Verb
from vdsm.api.events import EVENTS
from vdsm.base.errors import BadParameter, Busy, Denied, Unauthenticated, VdsmError
from vdsm.bindings.arguments import BODILESS, Place, placed
from vdsm.bindings.manual import VerbManual, failures, field_docs, first_line, manual_of, namespaces, structs_of
from vdsm.bindings.problems import (
    PROBLEM_TYPE,
    Malformed,
    Problem,
    TooLarge,
    TooSlow,
    WrongContentType,
)

VERSION: Final = "0.1"
_JSON: Final = "application/json"
_REFS: Final = "#/components/schemas/{name}"
_STATUS_PHRASES: Final = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    408: "Too slow",
    409: "Conflict",
    413: "Too large",
    415: "Not JSON",
    422: "A field is wrong",
    500: "Failed",
    503: "Not now",
    504: "Not finished in time",
    507: "Full",
}
_MORE_HEADERS: Final = {401: ("WWW-Authenticate",), 503: ("Retry-After",)}
_BODY_ERRORS: Final = (Malformed, TooSlow, TooLarge, WrongContentType)
_HEADERS: Final = {
    "X-Correlation-Id": "The request's id in the host's log: the one that came, or a fresh one.",
    "Retry-After": "Seconds to wait.",
    "WWW-Authenticate": "What is accepted.",
}
_DESCRIPTION: Final = """\
One API over everything that a Linux host needs to run virtual machines.

Callers prove who they are by a client certificate of the host's CA, by the kernel's word on the local unix socket, or
by a bearer token (`vdscli token create`). Every error is an RFC 9457 problem. Send `X-Correlation-Id` to find a
request in the host's log. Lists in a query are repeated or separated by commas.
"""


class Schemas:
    """The schemas of all types, as components."""

    def __init__(self, verbs: Iterable[Verb]) -> None:
        types: list[Any] = [Problem, *EVENTS]
        for verb in verbs:
            types += [verb.result, *(param.type for param in verb.params)]
        self._types = types
        schemas, components = msgspec.json.schema_components(types, ref_template=_REFS)
        self._of = {repr(declared): schema for declared, schema in zip(types, schemas, strict=True)}
        self.components: dict[str, Any] = dict(sorted(components.items()))
        self._describe_fields()
        self._say_what_is_there()

    def of(self, declared: Any) -> dict[str, Any]:
        """One type's schema; a copy."""
        return dict(self._of[repr(declared)])

    def of_param(self, param: Param) -> dict[str, Any]:
        """A parameter's schema, with its default."""
        schema = self.of(param.type)
        if not param.required and param.default is not None:
            schema["default"] = msgspec.to_builtins(param.default)
        return schema

    def _describe_fields(self) -> None:
        for name, struct in structs_of(*self._types).items():
            component = self.components.get(name)
            if component is None:
                continue
            if "description" in component:
                component["description"] = " ".join(component["description"].split())
            for field, text in field_docs(struct).items():
                if field in component["properties"]:
                    _describe(component["properties"][field], text)

    def _say_what_is_there(self) -> None:
        """Structs that are only sent say which of their fields are always there."""
        for name, struct in structs_of(*self._types).items():
            if struct.__struct_config__.forbid_unknown_fields or name == Problem.__name__:
                continue
            self.components[name].pop("required", None)
            required = [field.encode_name for field in msgspec.structs.fields(struct) if field.default is not None]
            if required:
                self.components[name]["required"] = required


def _describe(schema: dict[str, Any], text: str) -> None:
    schema["description"] = text  # beside a $ref as well: OpenAPI 3.1 allows that


def document(verbs: Mapping[str, Verb]) -> dict[str, Any]:
    """The whole OpenAPI document."""
    schemas = Schemas(verbs.values())
    paths: dict[str, dict[str, Any]] = {"/openapi.json": {"get": _openapi()}}
    for verb in verbs.values():
        paths.setdefault(verb.rest.path, {})[verb.rest.method.lower()] = _operation(verb, schemas)
    paths["/events"] = {"get": _events()}
    paths["/jsonrpc"] = {"post": _jsonrpc()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "VDSM, the agent of a virtualization host",
            "version": VERSION,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/api/v1", "description": "this host"}],
        "security": [{"mutualTLS": []}, {"bearer": []}],
        "tags": [{"name": name, "description": first_line(protocol)} for name, protocol in namespaces().items()],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()},
            "securitySchemes": {
                "mutualTLS": {"type": "mutualTLS", "description": "A client certificate of the host's CA."},
                "bearer": {"type": "http", "scheme": "bearer", "description": "A token of this host."},
            },
        },
    }


def problem_responses(kinds: Mapping[type[VdsmError], str]) -> dict[str, Any]:
    """The responses of these errors: those of one status together, each with when it happens."""
    by_status: dict[int, list[str]] = {}
    for kind, when in kinds.items():
        by_status.setdefault(kind.status, []).append(f"`{kind.name}`: {when}")
    responses: dict[str, Any] = {}
    for status, lines in sorted(by_status.items()):
        headers = _headers(*_MORE_HEADERS.get(status, ()))
        text = f"{_STATUS_PHRASES[status]}. " + " ".join(sorted(lines))
        content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        responses[str(status)] = {"description": text, "headers": headers, "content": content}
    return responses


def _headers(*more: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Correlation-Id", *more)}


def _operation(verb: Verb, schemas: Schemas) -> dict[str, Any]:
    manual = manual_of(verb)
    operation: dict[str, Any] = {
        "operationId": verb.name,
        "tags": [verb.namespace],
        "summary": manual.summary,
        "description": _description(verb, manual),
    }
    places = placed(verb)
    parameters = [
        _parameter(param, places[param.name], manual, schemas)
        for param in verb.params
        if places.get(param.name) in {Place.PATH, Place.QUERY}
    ]
    if parameters:
        operation["parameters"] = parameters
    kinds = failures(verb)
    if verb.rest.method not in BODILESS:
        operation |= _request_body(verb, places, manual, schemas)
        kinds |= {kind: first_line(kind) for kind in _BODY_ERRORS}
    operation["responses"] = _success(verb, schemas) | problem_responses(kinds)
    operation["x-role"] = verb.role.value
    operation["x-since"] = verb.since
    return operation


def _description(verb: Verb, manual: VerbManual) -> str:
    return f"{manual.text}\n\nNeeds the role {verb.role.value}. JSON-RPC: `{verb.name}`."


def _parameter(param: Param, place: Place, manual: VerbManual, schemas: Schemas) -> dict[str, Any]:
    schema = schemas.of_param(param)
    schema.pop("description", None)
    if place is Place.QUERY:
        # A query has no null: what is left out is null.
        schema = _without_null(schema)
    shown: dict[str, Any] = {
        "name": param.name,
        "in": place.value,
        "required": param.required,
        "description": manual.args.get(param.name, ""),
        "schema": schema,
    }
    if schema.get("type") == "array":
        shown |= {"style": "form", "explode": True}
    if place is Place.PATH:
        schema.setdefault("minLength", 1)
        # A segment of a path cannot hold a slash.
        schema.setdefault("pattern", "^[^/]+$")
    return shown


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    members = [member for member in schema.get("anyOf", ()) if member != {"type": "null"}]
    if not members:
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**members[0], **rest} if len(members) == 1 else {**rest, "anyOf": members}


def _request_body(
    verb: Verb, places: Mapping[str, Place], manual: VerbManual, schemas: Schemas
) -> dict[str, dict[str, Any]]:
    for param in verb.params:
        if places.get(param.name) is Place.BODY:
            return {"requestBody": {"required": True, "content": {_JSON: {"schema": schemas.of(param.type)}}}}
    fields = [param for param in verb.params if places.get(param.name) is Place.FIELD]
    properties = {}
    for param in fields:
        properties[param.name] = schemas.of_param(param)
        if param.name in manual.args:
            _describe(properties[param.name], manual.args[param.name])
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    required = [param.name for param in fields if param.required]
    if required:
        schema["required"] = required
    return {"requestBody": {"required": bool(required), "content": {_JSON: {"schema": schema}}}}


def _success(verb: Verb, schemas: Schemas) -> dict[str, Any]:
    if verb.result is type(None):
        return {"204": {"description": "Done.", "headers": _headers()}}
    content = {_JSON: {"schema": schemas.of(verb.result)}}
    phrase = {201: "Created.", 202: "Begun: the answer is the task's id."}.get(verb.rest.status, "The answer.")
    return {str(verb.rest.status): {"description": phrase, "headers": _headers(), "content": content}}


def _openapi() -> dict[str, Any]:
    return {
        "operationId": "openapi",
        "summary": "This document.",
        "security": [],
        "responses": {"200": {"description": "The document.", "content": {_JSON: {"schema": {"type": "object"}}}}},
    }


def _events() -> dict[str, Any]:
    kinds = ", ".join(f"`{event.operation}` ({event.__name__})" for event in EVENTS)
    stream = {
        "description": "The stream.",
        "headers": _headers(),
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
    return {
        "operationId": "events",
        "summary": "What happens on this host, as server-sent events.",
        "description": (
            f"Each event has an id, its operation as its name - {kinds} - and JSON as its data. Come back with "
            "`Last-Event-ID` to go on where the stream ended; an event `reset` says that events were missed, so that "
            "the state must be asked for anew. Silence is broken by a comment every 15 s.\n\nNeeds the role viewer."
        ),
        "parameters": _event_parameters(),
        "responses": {"200": stream}
        | problem_responses({kind: first_line(kind) for kind in (Unauthenticated, Denied, BadParameter, Busy)}),
    }


def _event_parameters() -> list[dict[str, Any]]:
    names = sorted(event.operation for event in EVENTS)
    text = {"type": "string"}
    described: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
        ("types", "query", "only these events", {"type": "array", "items": {"enum": names}}),
        ("vm_id", "query", "only events of this VM", text),
        ("last_event_id", "query", "where to go on, for those who cannot send the header", text),
        ("Last-Event-ID", "header", "where to go on", text),
    )
    return [
        {"name": name, "in": place, "required": False, "description": said, "schema": schema}
        for name, place, said, schema in described
    ]


def _jsonrpc() -> dict[str, Any]:
    return {
        "operationId": "jsonrpc",
        "summary": "JSON-RPC 2.0 over HTTP: one request, or a batch.",
        "description": (
            "The same verbs under their JSON-RPC names, with parameters and results in the form of the oVirt "
            "protocol. Errors are JSON-RPC errors with status 200; notifications are answered with 204."
        ),
        "requestBody": {
            "required": True,
            "content": {_JSON: {"schema": {"type": ["object", "array"]}}},
        },
        "responses": {
            "200": {
                "description": "The answer or answers.",
                "headers": _headers(),
                "content": {_JSON: {"schema": {"type": ["object", "array"]}}},
            },
            "204": {"description": "There is nothing to answer.", "headers": _headers()},
        }
        | problem_responses({kind: first_line(kind) for kind in (Unauthenticated, Denied, *_BODY_ERRORS)}),
    }
