"""A verb bound to its implementation: decode the parameters, call, encode the result, in either form."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Final

import msgspec

from vdsm.api.contract import Answer, Verb
from vdsm.base.clock import notify_time_ms
from vdsm.base.errors import BadParameter
from vdsm.bindings.forms import Convert, Dialect, Forms, called_ms, params_struct

_PATH: Final = re.compile(r"^(?P<reason>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING: Final = re.compile(r"^Object missing required field `(.*)`$")
_UNKNOWN: Final = re.compile(r"^Object contains unknown field `(.*)`$", re.DOTALL)
_TRUE: Final = b"true"


def bad_parameter(error: msgspec.ValidationError) -> BadParameter:
    """Name the field that msgspec complains of, in one clear error."""
    match = _PATH.match(str(error))
    reason, path = (match["reason"], match["path"] or "") if match else (str(error), "")
    field = path.removeprefix("$").removeprefix(".")
    for pattern, words in ((_MISSING, "is missing"), (_UNKNOWN, "is not a known field")):
        found = pattern.match(reason)
        if found:
            return BadParameter(f"{field}.{found[1]}".removeprefix(".")[:200], words)
    return BadParameter(field or "params", reason[:1].lower() + reason[1:])


class Side:
    """One dialect of one verb: bytes in, bytes out."""

    def __init__(self, verb: Verb, forms: Forms) -> None:
        shape = forms.shape(verb.result)
        struct, self._arrivals = params_struct(f"{verb.name}Params", forms, verb.params)
        self.params_type = struct
        self._keys = {item.name: item.encode_name for item in msgspec.structs.fields(struct)}
        self._decoder = msgspec.json.Decoder(struct)
        self._leave: Convert | None = shape.leave
        self._encode = msgspec.json.Encoder().encode

    def decode(self, raw: bytes) -> dict[str, Any]:
        """The verb's arguments out of a JSON object.

        Raises:
            BadParameter: names the field that is wrong.
        """
        try:
            return self._arguments(self._decoder.decode(raw))
        except msgspec.ValidationError as error:
            raise bad_parameter(error) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadParameter("params", f"is not JSON: {error}") from error

    def convert(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The verb's arguments out of decoded values.

        Raises:
            BadParameter: names the field that is wrong.
        """
        try:
            return self._arguments(msgspec.convert(values, self.params_type))
        except msgspec.ValidationError as error:
            raise bad_parameter(error) from error

    def _arguments(self, decoded: Any) -> dict[str, Any]:
        arguments = {}
        for name, arrive in self._arrivals:
            value = getattr(decoded, name)
            if value is not msgspec.UNSET:
                arguments[name] = self._arrive(name, arrive, value) if arrive and value is not None else value
        return arguments

    def _arrive(self, name: str, arrive: Convert, value: Any) -> Any:
        try:
            return arrive(value)
        except msgspec.ValidationError as error:
            raise BadParameter(self._keys[name], bad_parameter(error).reason) from error

    def encode(self, result: Any) -> bytes:
        """The result as JSON."""
        return self._encode(self._leave(result) if self._leave and result is not None else result)


class Sides:
    """Makes the sides of verbs when they are first used: managers use a few verbs, and only one dialect of them."""

    def __init__(self) -> None:
        self._forms: Final = {dialect: Forms(dialect) for dialect in Dialect}
        self._lock: Final = threading.Lock()

    def side(self, verb: Verb, dialect: Dialect) -> Side:
        """A verb in a dialect; some milliseconds of work."""
        with self._lock:
            return Side(verb, self._forms[dialect])


class BoundVerb:
    """A verb, its implementation and both dialects."""

    def __init__(self, verb: Verb, function: Callable[..., Any], sides: Sides) -> None:
        self.verb = verb
        self.name = verb.name
        self.role = verb.role
        self.pool = verb.pool
        self.while_starting = verb.while_starting
        self._function = function
        self._sides = sides
        self._no_params = not verb.params
        self._void = verb.result is type(None)
        self._as_list = verb.answer is Answer.LIST

    @cached_property
    def wire(self) -> Side:
        """In JSON-RPC."""
        return self._sides.side(self.verb, Dialect.WIRE)

    @cached_property
    def clean(self) -> Side:
        """In REST."""
        return self._sides.side(self.verb, Dialect.CLEAN)

    def call_wire(self, raw_params: bytes) -> bytes:
        """Serve JSON-RPC: the JSON object of the parameters (or nothing) in, the JSON of the result out.

        Raises:
            BadParameter: a parameter is wrong.
            VdsmError: what the verb raises.
        """
        if not self._void:
            called_ms.set(notify_time_ms())
        if self._no_params and raw_params in {b"", b"{}", b"null"}:
            result = self._function()
        else:
            result = self._function(**self.wire.decode(raw_params or b"{}"))
        if self._void:
            return _TRUE
        encoded = self.wire.encode(result)
        return b"[%s]" % encoded if self._as_list else encoded

    def call_clean(self, values: Mapping[str, Any]) -> bytes | None:
        """Serve REST: named values in, the JSON of the result out; None when the verb has none.

        Raises:
            BadParameter: a parameter is wrong.
            VdsmError: what the verb raises.
        """
        called_ms.set(notify_time_ms())
        result = self._function(**self.clean.convert(values))
        return None if self._void else self.clean.encode(result)


def bind(verbs: Mapping[str, Verb], services: Mapping[str, object]) -> dict[str, BoundVerb]:
    """Bind every verb to the method of its service.

    Raises:
        AttributeError: a service lacks a verb's method.
    """
    sides = Sides()
    return {name: BoundVerb(verb, getattr(services[verb.service], verb.method), sides) for name, verb in verbs.items()}
