"""The generated files say what the contract says."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vdsm.api.catalogue import all_verbs
from vdsm.api.contract import Verb
from vdsm.api.events import EVENTS
from vdsm.bindings.documents import documents, project_root, stale
from vdsm.bindings.openapi import document

VERBS = all_verbs()


@pytest.fixture(scope="module")
def openapi() -> dict:
    return document(VERBS)


def test_nothing_is_stale():
    assert stale(project_root(), VERBS) == [], "run `make docs`"


def test_a_changed_contract_is_noticed(tmp_path: Path):
    for name, content in documents(VERBS).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert stale(tmp_path, VERBS) == []
    fewer = {name: verb for name, verb in VERBS.items() if name != "VM.pause"}
    assert stale(tmp_path, fewer) == sorted(documents(VERBS), key=list(documents(VERBS)).index)
    (tmp_path / "docs/api.md").unlink()
    assert stale(tmp_path, VERBS) == ["docs/api.md"]


def test_it_is_made_the_same_way_each_time():
    assert documents(VERBS) == documents(all_verbs())


def references(node: object) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(references, node.values()))
    if isinstance(node, list):
        return set().union(*map(references, node))
    return set()


def test_every_reference_leads_somewhere(openapi):
    found = references(openapi)
    assert found
    for reference in found:
        node = openapi
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


def test_every_component_is_used(openapi):
    used = {reference.rpartition("/")[2] for reference in references(openapi)}
    events = {event.__name__ for event in EVENTS}
    assert set(openapi["components"]["schemas"]) <= used | events


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_every_verb_is_in_the_document(openapi, verb: Verb):
    operation = openapi["paths"][verb.rest.path][verb.rest.method.lower()]
    assert operation["operationId"] == verb.name
    assert operation["summary"]
    success = "204" if verb.result is type(None) else str(verb.rest.status)
    assert {success, "401", "403"} <= operation["responses"].keys()
    for status, response in operation["responses"].items():
        if status >= "400":
            assert list(response["content"]) == ["application/problem+json"]


def test_security(openapi):
    assert openapi["security"] == [{"mutualTLS": []}, {"bearer": []}]
    assert set(openapi["components"]["securitySchemes"]) == {"mutualTLS", "bearer"}
    public = [
        path
        for path, item in openapi["paths"].items()
        for operation in item.values()
        if operation.get("security") == []
    ]
    assert public == ["/openapi.json"]


def test_the_command_line_has_the_list():
    listed = json.loads((project_root() / "src/vdscli/verbs.json").read_text())
    assert listed["format"] == 1
    by_name = {verb["name"]: verb for verb in listed["verbs"]}
    assert list(by_name) == list(VERBS)
    shutdown = {param["name"]: param for param in by_name["VM.shutdown"]["params"]}
    assert shutdown["vmID"] == {
        "name": "vmID",
        "rest_name": "vm_id",
        "type": "string",
        "required": True,
        "default": None,
        "description": "the VM.",
    }
    assert shutdown["delay"]["default"] == 0


def test_the_page_needs_nothing_from_elsewhere():
    page = documents(VERBS)["src/vdsm/bindings/pages/reference.html"].decode()
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    for name in VERBS:
        assert f'id="{name}"' in page


class Page(HTMLParser):
    """Notes what is open, all ids, and where links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in {"meta", "link"}:
            self.open.append(tag)
        if found.get("id"):
            self.ids.append(found["id"])
        if tag == "a":
            self.links.add(found["href"])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole():
    page = Page()
    page.feed(documents(VERBS)["src/vdsm/bindings/pages/reference.html"].decode())
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    assert {link for link in page.links if not link.startswith("#")} == {"/api/v1/openapi.json"}
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
