"""Every verb: what it says of itself, who implements it, and what both of its forms accept and refuse."""

from __future__ import annotations

import inspect
import json
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NewType, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

from vdsm.api.catalogue import PROTOCOLS, all_verbs
from vdsm.api.contract import Form, Param, Verb, verbs_of, wire_mark
from vdsm.api.vm_types import VmStats
from vdsm.base.clock import notify_time_ms
from vdsm.base.errors import BadParameter
from vdsm.bindings.arguments import BODILESS, Place, placed
from vdsm.bindings.forms import Dialect, Forms
from vdsm.bindings.manual import error_class, field_docs, manual_of, undocumented
from vdsm.bindings.verbs import Side, bind
from vdsm.services.definitions import DefinitionService
from vdsm.services.hosts import HostService
from vdsm.services.own_storage import OwnStorage
from vdsm.services.storage_checks import StorageCheckService
from vdsm.services.storage_connections import StorageConnectionService
from vdsm.services.storage_domains import StorageDomainService
from vdsm.services.storage_hosts import HostStorageService
from vdsm.services.storage_images import ImageService
from vdsm.services.storage_jobs import VolumeJobService
from vdsm.services.storage_leases import LeaseService
from vdsm.services.storage_pools import StorageMergeService, StoragePoolService
from vdsm.services.storage_tasks import TaskService
from vdsm.services.storage_volumes import VolumeService
from vdsm.services.tokens import TokenService
from vdsm.services.transfers import NbdService, TicketService
from vdsm.services.vms import VmService

VERBS = all_verbs()
SERVICES = {
    "Host": HostService,
    "VM": VmService,
    "Definition": DefinitionService,
    "HostStorage": HostStorageService,
    "Storage": OwnStorage,
    "StoragePool": StoragePoolService,
    "StorageConnections": StorageConnectionService,
    "StorageMerges": StorageMergeService,
    "StorageDomain": StorageDomainService,
    "StorageChecks": StorageCheckService,
    "Image": ImageService,
    "Volume": VolumeService,
    "SDM": VolumeJobService,
    "Lease": LeaseService,
    "Task": TaskService,
    "ImageTickets": TicketService,
    "NBD": NbdService,
    "Token": TokenService,
}
FORMS = {dialect: Forms(dialect) for dialect in Dialect}
# Texts that the contract's patterns accept.
TEXTS = ("x1", "/x/y", "52:54:00:00:00:01", "keep", "INFO", "6b1f8a34-0000-4000-8000-000000000001")
NUMBERS_AS_TEXTS = {Form.TEXT, Form.DECIMAL, Form.SMALL}

every_verb = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
both_forms = pytest.mark.parametrize("dialect", list(Dialect), ids=lambda dialect: dialect.value)
with_params = pytest.mark.parametrize(
    "verb", [verb for verb in VERBS.values() if verb.params], ids=[verb.name for verb in VERBS.values() if verb.params]
)


def sample(declared: Any, forms: Forms) -> Any:
    """A valid value of a type, as it looks in one form."""
    mark = wire_mark(declared)
    metas = []
    while get_origin(declared) is Annotated:
        metas += [item for item in get_args(declared)[1:] if isinstance(item, msgspec.Meta)]
        declared = get_args(declared)[0]
    if isinstance(declared, NewType):
        declared = declared.__supertype__
    if get_origin(declared) in {Union, UnionType}:
        return sample(next(member for member in get_args(declared) if member is not NoneType), forms)
    if get_origin(declared) is Literal:
        return get_args(declared)[0]
    if get_origin(declared) in {list, tuple}:
        return [sample(get_args(declared)[0], forms)]
    if get_origin(declared) is dict:
        return {"x1": sample(get_args(declared)[1], forms)}
    if issubclass(declared, msgspec.Struct):
        hints = get_type_hints(declared, include_extras=True)
        return {
            forms.key(field.name, hints[field.name]): sample(hints[field.name], forms)
            for field in msgspec.structs.fields(declared)
        }
    return scalar(declared, metas, mark.form if forms.dialect is Dialect.WIRE else None)


def scalar(declared: Any, metas: list[msgspec.Meta], form: Form | None) -> Any:
    if declared is bool:
        return {Form.BOOL_TEXT: "true", Form.BOOL_WORD: "True"}.get(form, True)
    if declared in {int, float}:
        number = declared(max([meta.ge for meta in metas if meta.ge is not None], default=1))
        return str(number) if form in NUMBERS_AS_TEXTS else number
    if declared is Any:
        return {"any": [None]}
    if declared is str:
        kind = Annotated[(str, *metas)] if metas else str
        return next(text for text in TEXTS if accepts(kind, text))
    return next(iter(declared)).value


def accepts(kind: Any, value: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def name_of(param: Param, dialect: Dialect) -> str:
    return param.wire_name if dialect is Dialect.WIRE else param.name


def valid(verb: Verb, dialect: Dialect) -> dict[str, Any]:
    return {name_of(param, dialect): sample(param.type, FORMS[dialect]) for param in verb.params}


def refused(verb: Verb, dialect: Dialect, values: dict[str, Any]) -> str:
    with pytest.raises(BadParameter) as caught:
        Side(verb, FORMS[dialect]).decode(msgspec.json.encode(values))
    return caught.value.field


class TestDeclarations:
    @every_verb
    def test_the_manual_is_complete(self, verb: Verb):
        manual = manual_of(verb)
        assert manual.summary.endswith(".")
        assert undocumented(verb) == []
        assert set(manual.args) <= {param.name for param in verb.params}
        for name, when in manual.raises.items():
            assert error_class(name).status >= 400
            assert when

    @every_verb
    def test_the_route_can_be_served(self, verb: Verb):
        places = placed(verb)
        if verb.rest.method in BODILESS:
            assert verb.rest.body is None
            for param in verb.params:
                assert not isinstance(sample(param.type, FORMS[Dialect.CLEAN]), dict)
        for param in verb.params:
            if places.get(param.name) is Place.PATH:
                assert param.required
                assert isinstance(sample(param.type, FORMS[Dialect.CLEAN]), str)

    def test_routes_names_and_legacy_names_are_unique(self):
        routes = [(verb.rest.method, verb.rest.path) for verb in VERBS.values()]
        legacy = [verb.legacy for verb in VERBS.values() if verb.legacy]
        assert len(set(routes)) == len(routes) == len(VERBS) == sum(len(verbs_of(each)) for each in PROTOCOLS)
        assert len(set(legacy)) == len(legacy)

    def test_what_only_reads_is_a_get(self):
        for verb in VERBS.values():
            if verb.rest.method != "GET":
                assert verb.role != "viewer" or verb.name in {"Host.ping", "Host.ping2", "Host.echo"}

    @every_verb
    def test_no_name_is_lost_within_a_union(self, verb: Verb):
        for declared in (param.type for param in verb.params):
            if get_origin(declared) in {Union, UnionType}:
                assert [wire_mark(member).name for member in get_args(declared)] == [None] * len(get_args(declared))

    def test_texts_beneath_fields_are_found(self):
        definition = next(verb for verb in VERBS.values() if verb.name == "Definition.create")
        assert "autostart" in field_docs(definition.params[0].type)


class TestServices:
    def test_every_namespace_is_implemented(self):
        assert set(SERVICES) == {verb.service for verb in VERBS.values()}

    @every_verb
    def test_the_method_has_the_contract_s_signature(self, verb: Verb):
        protocol = next(each for each in PROTOCOLS if verbs_of(each)[0].service == verb.service)
        promised = inspect.signature(getattr(protocol, verb.method))
        kept = inspect.signature(getattr(SERVICES[verb.service], verb.method))
        assert [(p.name, p.kind, p.default) for p in kept.parameters.values()] == [
            (p.name, p.kind, p.default) for p in promised.parameters.values()
        ]


class TestRequests:
    @every_verb
    @both_forms
    def test_a_valid_request_is_accepted(self, verb: Verb, dialect: Dialect):
        decoded = Side(verb, FORMS[dialect]).decode(msgspec.json.encode(valid(verb, dialect)))
        assert set(decoded) == {param.name for param in verb.params}
        for param in verb.params:
            msgspec.convert(msgspec.to_builtins(decoded[param.name]), param.type)

    @every_verb
    def test_both_forms_mean_the_same(self, verb: Verb):
        wire, clean = (
            Side(verb, FORMS[dialect]).decode(msgspec.json.encode(valid(verb, dialect)))
            for dialect in (Dialect.WIRE, Dialect.CLEAN)
        )
        assert wire == clean

    @every_verb
    @both_forms
    def test_what_is_optional_can_be_left_out(self, verb: Verb, dialect: Dialect):
        needed = {name_of(param, dialect) for param in verb.params if param.required}
        values = {name: value for name, value in valid(verb, dialect).items() if name in needed}
        assert len(Side(verb, FORMS[dialect]).decode(msgspec.json.encode(values))) == len(needed)

    @every_verb
    @both_forms
    def test_what_is_missing_is_named(self, verb: Verb, dialect: Dialect):
        for param in verb.params:
            if param.required:
                values = valid(verb, dialect)
                del values[name_of(param, dialect)]
                assert refused(verb, dialect, values) == name_of(param, dialect)

    @every_verb
    @both_forms
    def test_what_is_unknown_is_named(self, verb: Verb, dialect: Dialect):
        assert refused(verb, dialect, {**valid(verb, dialect), "unheardOf": 1}) == "unheardOf"

    @with_params
    @both_forms
    def test_what_has_a_wrong_type_is_named(self, verb: Verb, dialect: Dialect):
        for param in verb.params:
            name = name_of(param, dialect)
            wrong = next(
                value
                for value in ({"wrong": [1]}, [[[1]]], 3.25)
                if not accepts(FORMS[dialect].shape(param.type).decoded, value)
            )
            field = refused(verb, dialect, {**valid(verb, dialect), name: wrong})
            assert field == name or field.startswith((f"{name}.", f"{name}["))

    @with_params
    @both_forms
    def test_wrong_fields_within_structs_are_named(self, verb: Verb, dialect: Dialect):
        for param in verb.params:
            name = name_of(param, dialect)
            values = valid(verb, dialect)
            if not (isinstance(param.type, type) and issubclass(param.type, msgspec.Struct)):
                continue
            assert param.type.__struct_config__.forbid_unknown_fields
            assert refused(verb, dialect, {**values, name: {**values[name], "unheardOf": 1}}) == f"{name}.unheardOf"
            for field, value in values[name].items():
                if value != {"any": [None]}:
                    named = refused(verb, dialect, {**values, name: {**values[name], field: {"wrong": 3.25}}})
                    assert named.startswith(f"{name}.{field}")

    @with_params
    @both_forms
    def test_bounds_are_kept(self, verb: Verb, dialect: Dialect):
        for param in verb.params:
            text = json.dumps(msgspec.json.schema(param.type))
            if '"minimum"' in text and isinstance(sample(param.type, FORMS[Dialect.CLEAN]), int):
                for outside in (-1, 10**15):
                    if outside < 0 or '"maximum"' in text:
                        values = {**valid(verb, dialect), name_of(param, dialect): outside}
                        assert refused(verb, dialect, values) == name_of(param, dialect)


def test_answer_is_no_newer_than_what_it_was_made_of():
    """A manager would let it count for more than the event that came in between."""
    read_ms: list[int] = []

    class Service(HostService):
        def __init__(self) -> None:
            """Without parts: only one verb is called."""

        def get_all_vm_stats(self):
            read_ms.append(notify_time_ms())
            while notify_time_ms() < read_ms[-1] + 3:
                pass
            return [VmStats(vm_id="1", status="Up", vm_name="one", hash="0", stats_age=0.0)]

    name = "Host.getAllVmStats"
    verb = bind({name: all_verbs()[name]}, {"Host": Service()})[name]
    assert int(json.loads(verb.call_wire(b""))[0]["statusTime"]) <= read_ms[0]
    clean = verb.call_clean({})
    assert clean is not None
    assert json.loads(clean)[0]["status_time"] <= read_ms[1]
