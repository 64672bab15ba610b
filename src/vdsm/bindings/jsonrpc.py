"""JSON-RPC 2.0 on bytes: requests, notifications, batches and errors; knows verbs only through a dispatcher.

An id is echoed as the very JSON it came as. An answer has a result or an error, never both; an error has only a code
and a message, because that is what the Engine's client reads.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, Literal, Protocol

import msgspec

from vdsm.base.errors import BadParameter, Rejected, VdsmError
from vdsm.bindings.dispatch import Outcome, Pending
from vdsm.bindings.peers import Caller

log = logging.getLogger(__name__)

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603

MAX_BATCH: Final = 100
_MAX_MESSAGE: Final = 4096
_NULL: Final = b"null"
_UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_ID_STARTS: Final = frozenset(b'"-0123456789n')

Answer = bytes | None


class Dispatch(Protocol):
    """What JSON-RPC needs of a dispatcher."""

    def call(self, name: str, raw_params: bytes, caller: Caller, flow: str = "") -> bytes | Pending[Outcome]:
        """Run a verb; its result as JSON now or later, or a VdsmError."""


class _Request(msgspec.Struct):
    jsonrpc: Literal["2.0"]
    method: str
    params: msgspec.Raw = msgspec.Raw()
    id: msgspec.Raw = msgspec.Raw()


class _Ident(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw()


class JsonRpc:
    """Serves JSON-RPC messages."""

    def __init__(self, dispatcher: Dispatch) -> None:
        self._call = dispatcher.call
        self._decode = msgspec.json.Decoder(_Request).decode

    def handle(self, body: bytes, caller: Caller, flow: str = "") -> Answer | Pending[Answer]:
        """Serve one message: the answer, None for notifications, or the pending answer."""
        try:
            request = self._decode(body)
        except _UNDECODABLE as error:
            if body.lstrip()[:1] == b"[":
                return self._handle_batch(body, caller, flow)
            return _invalid(body, error)
        return self._serve(request, caller, flow)

    def refuse(self, body: bytes, error: VdsmError) -> bytes:
        """The answer to a message that is not served at all; a batch is refused as a whole."""
        try:
            ident = _ident_of(body)
        except _UNDECODABLE:
            ident = _NULL
        return _error(ident, error.code, str(error))

    def _serve(self, request: _Request, caller: Caller, flow: str) -> Answer | Pending[Answer]:
        ident = bytes(request.id)
        method = request.method
        if ident and not _is_ident(ident):
            return _error(_NULL, INVALID_REQUEST, "id must be a text, a number or null")
        outcome: Outcome | Pending[Outcome]
        try:
            outcome = self._call(method, bytes(request.params), caller, flow)
        except Exception as error:  # noqa: BLE001 - the one who asked gets it
            outcome = error
        if type(outcome) is not Pending:
            return _answer(ident, method, outcome)  # type: ignore[arg-type]  # mypy does not narrow by type()
        later: Pending[Answer] = Pending()
        outcome.then(lambda settled: later.settle(_answer(ident, method, settled)))
        return later

    def _handle_batch(self, body: bytes, caller: Caller, flow: str) -> Answer | Pending[Answer]:
        try:
            items = msgspec.json.decode(body, type=list[msgspec.Raw])
        except _UNDECODABLE as error:
            return _invalid(body, error)
        if not items:
            return _error(_NULL, INVALID_REQUEST, "an empty batch")
        if len(items) > MAX_BATCH:
            return _error(_NULL, INVALID_REQUEST, f"a batch of {len(items)}, at most {MAX_BATCH} are served")
        return _Batch([self._serve_item(bytes(item), caller, flow) for item in items]).answer()

    def _serve_item(self, body: bytes, caller: Caller, flow: str) -> Answer | Pending[Answer]:
        try:
            request = self._decode(body)
        except _UNDECODABLE as error:
            return _invalid(body, error)
        return self._serve(request, caller, flow)


class _Batch:
    """Gathers the answers of a batch: one array, after the last one is done."""

    def __init__(self, answers: Sequence[Answer | Pending[Answer]]) -> None:
        self._answers: list[Answer] = [None] * len(answers)
        self._missing = len(answers)
        self._all: Pending[Answer] = Pending()
        for number, answer in enumerate(answers):
            if isinstance(answer, Pending):
                answer.then(lambda settled, number=number: self._add(number, settled))  # type: ignore[misc]
            else:
                self._add(number, answer)

    def _add(self, number: int, answer: Answer) -> None:
        self._answers[number] = answer
        self._missing -= 1
        if not self._missing:
            given = [item for item in self._answers if item is not None]
            self._all.settle(b"[%s]" % b",".join(given) if given else None)

    def answer(self) -> Pending[Answer]:
        """The whole answer; None where all were notifications."""
        return self._all


def _is_ident(ident: bytes) -> bool:
    if ident[0] not in _ID_STARTS:
        return False
    if ident.isascii():
        return True
    try:
        ident.decode()
    except UnicodeDecodeError:
        return False
    return True


def _invalid(body: bytes, error: Exception) -> bytes:
    """The answer to what is no request: with its id where it has a usable one."""
    try:
        ident = _ident_of(body)
    except _UNDECODABLE as reason:
        return _error(_NULL, PARSE_ERROR, f"not JSON: {reason}")
    if not isinstance(error, msgspec.ValidationError):
        return _error(_NULL, PARSE_ERROR, f"not JSON: {error}")
    return _error(ident, INVALID_REQUEST, str(error))


def _ident_of(body: bytes) -> bytes:
    """The id of a message, null where there is no usable one.

    Raises:
        DecodeError: it is no JSON at all; or another of the undecodable ones.
    """
    try:
        ident = bytes(msgspec.json.decode(body, type=_Ident).id)
    except msgspec.ValidationError:
        return _NULL
    return ident if ident and _is_ident(ident) else _NULL


def _answer(ident: bytes, method: str, outcome: Outcome) -> Answer:
    if type(outcome) is bytes:
        return b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (ident, outcome) if ident else None
    code, message = _code_and_message(method, outcome)
    return _error(ident, code, message) if ident else None


def _code_and_message(method: str, outcome: Outcome) -> tuple[int, str]:
    if type(outcome) is BadParameter:
        return INVALID_PARAMS, str(outcome)
    # Storage's has a number of its own, on which an Engine branches.
    if isinstance(outcome, Rejected):
        return outcome.code, str(outcome)
    if isinstance(outcome, VdsmError):
        log.warning("%s failed: %s", method[:200], outcome)
        return outcome.code, str(outcome)
    log.error("%s failed unexpectedly", method[:200], exc_info=outcome if isinstance(outcome, Exception) else None)
    return INTERNAL_ERROR, f"internal error: {type(outcome).__name__}"


def _error(ident: bytes, code: int, message: str) -> bytes:
    error = msgspec.json.encode({"code": code, "message": message[:_MAX_MESSAGE]})
    return b'{"jsonrpc":"2.0","id":%s,"error":%s}' % (ident or _NULL, error)
