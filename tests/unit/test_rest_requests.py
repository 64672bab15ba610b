"""What REST makes of requests, good and bad."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rest import ROOT, RestHouse, http_scope
from vdsm.api.contract import Role
from vdsm.base.errors import Busy
from vdsm.bindings.peers import Caller, Way

TOYS = "/api/v1/toys"
JSON_TYPE = {"Content-Type": "application/json"}


@pytest.fixture
def house() -> RestHouse:
    return RestHouse()


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def problem(response, status: int, name: str, field: str | None = None) -> dict:
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (response.status_code, body["status"], body["type"]) == (status, status, f"/errors/{name}")
    assert body.get("field") == field
    assert body["instance"] == f"urn:vdsm:flow:{response.headers['x-correlation-id']}"
    return body


class TestAnswers:
    def test_query_of_all_kinds(self, house):
        response = house.ask("GET", TOYS, params={"names": ["a,b", "c"], "count": "-4", "broken": "true"})
        assert response.json() == ["a", "b", "c", "-4", "True"]
        assert house.service.calls == [(("a", "b", "c"), -4, True)]

    def test_whole_body(self, house):
        response = house.ask("POST", TOYS, json={"name": "bus", "wheels": [{"size": 3}, {"size": 9, "kind": "wood"}]})
        assert response.status_code == 201
        assert response.json() == {"what": "bus with 2", "number": 7}

    def test_fields_of_the_body(self, house):
        response = house.ask("PUT", f"{TOYS}/x/speed", json={"speed": 5, "loud": True})
        assert response.json() == {"what": "x 5 True", "number": 0}

    @pytest.mark.parametrize("more", [{}, {"json": {}}, {"content": b"", "headers": JSON_TYPE}])
    def test_nothing_to_say(self, house, more):
        response = house.ask("POST", f"{TOYS}/x/stop", **more)
        assert (response.status_code, response.content) == (204, b"")
        assert house.service.calls == [("stop", "x")]

    def test_query_of_delete(self, house):
        assert house.ask("DELETE", f"{TOYS}/x?attempts=3").status_code == 204
        assert house.service.calls == [("destroy", "x", 3)]

    def test_head_has_the_length_and_no_body(self, house):
        full, head = house.ask("GET", TOYS), house.ask("HEAD", TOYS)
        assert head.content == b""
        assert head.headers["content-length"] == full.headers["content-length"] == str(len(full.content))

    def test_path_is_decoded(self, house):
        assert house.ask("GET", f"{TOYS}/a%20b%C3%A4").json()["what"].startswith("a bä of")

    def test_flow_id_and_caller_reach_the_verb_and_come_back(self, house):
        response = house.ask("GET", f"{TOYS}/x", headers={"X-Correlation-Id": "flow/1:2"})
        assert response.json()["what"] == "x of root in flow/1:2"
        assert response.headers["x-correlation-id"] == "flow/1:2"

    @pytest.mark.parametrize("given", ["", "a b", "x" * 129, "ü"])
    def test_a_bad_flow_id_is_replaced(self, house, given):
        response = house.ask("GET", TOYS, headers={b"X-Correlation-Id": given.encode()})
        assert response.headers["x-correlation-id"] not in {given, ""}

    def test_requests_are_observed(self, house):
        house.ask("GET", TOYS)
        house.ask("GET", f"{TOYS}/none")
        assert house.observed == [("Toy.list", "ok"), ("Toy.look", "no_such_vm")]

    def test_index_and_metrics(self, house):
        assert house.ask("GET", "/api/v1").json()["links"]["openapi"] == "/api/v1/openapi.json"
        assert house.ask("GET", "/metrics").text == "some 1\n"

    def test_pages(self, house):
        assert house.ask("GET", "/api/v1/openapi.json").json()["openapi"].startswith("3.1")
        page = house.ask("GET", "/docs")
        assert "VM.create" in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert house.ask("GET", "/docs/reference.css").headers["content-type"].startswith("text/css")
        assert house.ask("GET", "/errors/busy").headers["location"] == "/docs#error-busy"


class TestRefusals:
    @pytest.mark.parametrize("path", ["/nothing", "/api/v1/nothing", "/api/v1/toys/", "/api/v2", "/api/v1/toys/a/b/c"])
    def test_unknown_path(self, house, path):
        problem(house.ask("GET", path), 404, "no_such_path")

    def test_wrong_method_names_all_that_are_right(self, house):
        response = house.ask("PATCH", TOYS)
        problem(response, 405, "wrong_method")
        assert response.headers["allow"] == "GET, HEAD, POST"
        assert house.ask("GET", f"{TOYS}/x/stop").headers["allow"] == "POST"

    @pytest.mark.parametrize(
        "content_type", ["", "text/plain", "application/json; charset=latin-1", "application/jsonx"]
    )
    def test_wrong_content_type(self, house, content_type):
        headers = {"Content-Type": content_type}
        problem(house.ask("POST", TOYS, content=b"{}", headers=headers), 415, "wrong_content_type")

    @pytest.mark.parametrize("content_type", ["application/json;charset=UTF-8", 'Application/JSON ; charset="utf-8"'])
    def test_right_content_type(self, house, content_type):
        headers = {"Content-Type": content_type}
        assert house.ask("POST", TOYS, content=b'{"name":"x"}', headers=headers).status_code == 201

    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b"nul",
            b'{"name": NaN}',
            b'{"name": "a", "name": "b"}',
            b'{"wheels": [{"size": 1, "size": 2}], "name": "x"}',
            b'{"name": "\\ud800"}',
            b'{"name": "\xff"}',
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b'{"name": 1e999}',
            b'{"name": ' + b"9" * 5000 + b"}",
        ],
    )
    def test_malformed(self, house, body):
        problem(house.ask("POST", TOYS, content=body, headers=JSON_TYPE), 400, "malformed")

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "name"),
            ([], "body"),
            ("car", "body"),
            (None, "body"),
            ({"name": 5}, "name"),
            ({"name": "x", "colour": "red"}, "colour"),
            ({"name": "x", "wheels": [{"size": 1}, {}]}, "wheels[1].size"),
            ({"name": "x", "wheels": [{"size": 10}]}, "wheels[0].size"),
            ({"name": "x", "wheels": [{"size": 1, "kind": "ice"}]}, "wheels[0].kind"),
            ({"name": "x", "wheels": [{"size": 1, "rim": 1}]}, "wheels[0].rim"),
            ({"name": "x", "spareWHEEL": None}, "spareWHEEL"),
            ({"name": "taken"}, "spare_wheel.size"),
        ],
    )
    def test_field_of_the_whole_body(self, house, body, field):
        problem(house.ask("POST", TOYS, content=json.dumps(body), headers=JSON_TYPE), 422, "bad_parameter", field)

    def test_no_body_at_all(self, house):
        problem(house.ask("POST", TOYS), 422, "bad_parameter", "body")

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "speed"),
            ({"speed": "5"}, "speed"),
            ({"speed": -1}, "speed"),
            ({"speed": 1, "loud": 1}, "loud"),
            ({"speed": 1, "high": 1}, "high"),
            ({"speed": 1, "toy_id": "y"}, "toy_id"),
            ([1], "body"),
        ],
    )
    def test_field_of_the_body(self, house, body, field):
        problem(house.ask("PUT", f"{TOYS}/x/speed", json=body), 422, "bad_parameter", field)

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("count=x", "count"),
            ("count=1.5", "count"),
            ("count=", "count"),
            ("count=1&count=1", "count"),
            ("broken=1", "broken"),
            ("broken=yes", "broken"),
            ("nameList=a", "nameList"),
            ("what=1", "what"),
        ],
    )
    def test_query(self, house, query, field):
        problem(house.ask("GET", f"{TOYS}?{query}"), 422, "bad_parameter", field)

    def test_query_beside_a_body(self, house):
        problem(house.ask("PUT", f"{TOYS}/x/speed?loud=true", json={"speed": 1}), 422, "bad_parameter", "loud")

    def test_a_service_names_the_field_as_on_the_wire(self, house):
        problem(house.ask("GET", f"{TOYS}/bad"), 422, "bad_parameter", "toy_id")

    def test_errors_of_verbs(self, house):
        assert problem(house.ask("GET", f"{TOYS}/none"), 404, "no_such_vm")["code"] == 1
        detail = problem(house.ask("GET", "/api/v1/trouble/state"), 409, "wrong_state")["detail"]
        assert detail == "cannot fly while Down"

    def test_busy_says_when_to_come_back(self, house):
        response = house.ask("GET", "/api/v1/trouble/busy")
        problem(response, 503, "busy")
        assert response.headers["retry-after"] == "1"

    def test_not_ready(self, house):
        house.is_ready = False
        problem(house.ask("GET", TOYS), 503, "recovering")

    def test_a_bug_says_nothing_of_its_inside(self, house, caplog):
        body = problem(house.ask("GET", "/api/v1/trouble/bug"), 500, "internal")
        assert "secret" not in json.dumps(body)
        assert "secret of the house" in caplog.text

    def test_full_pool(self):
        class Full:
            def run(self, *_args):
                raise Busy("query")

        problem(RestHouse(dispatcher=Full()).ask("GET", TOYS), 503, "busy")


class TestBodies:
    def test_announced_too_large_is_refused_unread(self):
        house = RestHouse(limit=1000, linger_s=0)

        def never():
            pytest.fail("the body was read")
            yield

        sent = house.asgi(http_scope("POST", TOYS, {"Content-Length": "1001"}), never())
        assert sent[0]["status"] == 413

    def test_endless_is_refused_at_the_limit(self):
        house = RestHouse(limit=1000, linger_s=0)
        taken = 0

        def endless():
            nonlocal taken
            while True:
                taken += 1
                yield {"type": "http.request", "body": b"x" * 300, "more_body": True}

        assert house.asgi(http_scope("POST", TOYS, JSON_TYPE), endless())[0]["status"] == 413
        assert taken == 4

    def test_what_is_left_of_a_body_ends_the_connection_after_a_moment(self):
        house = RestHouse(limit=1000)
        body = {"type": "http.request", "body": b"x" * 600}
        messages = iter([{**body, "more_body": True}] * 4 + [{**body, "more_body": False}])
        sent = house.asgi(http_scope("POST", TOYS, JSON_TYPE), messages)
        assert (b"connection", b"close") in sent[0]["headers"]
        assert [message.get("more_body", False) for message in sent[1:]] == [True, False]
        assert list(messages) == []

    def test_a_body_that_was_read_leaves_the_connection_open(self, house):
        assert "connection" not in house.ask("POST", TOYS, json={"name": 1}).headers

    def test_at_the_limit_is_taken(self):
        body = b'{"name":"%s"}' % (b"x" * 1000)
        house = RestHouse(limit=len(body))
        assert house.ask("POST", TOYS, content=body, headers=JSON_TYPE).status_code == 201

    def test_too_slow(self):
        house = RestHouse(body_deadline_s=0.05, linger_s=0)
        part = {"type": "http.request", "body": b"{", "more_body": True}
        assert house.asgi(http_scope("POST", TOYS, JSON_TYPE), [part])[0]["status"] == 408

    def test_given_up_by_the_client(self, house):
        messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
        assert house.asgi(http_scope("POST", TOYS, JSON_TYPE), messages) == []
        assert house.service.calls == []

    def test_length_that_is_no_number(self):
        house = RestHouse(linger_s=0)
        assert house.asgi(http_scope("POST", TOYS, {"Content-Length": "-1"}), [])[0]["status"] == 400

    def test_nobody_known_is_refused_before_the_body(self):
        house = RestHouse(caller=None)
        assert house.asgi(http_scope("POST", TOYS, JSON_TYPE), [])[0]["status"] == 401

    @settings(deadline=None, max_examples=60)
    @given(st.binary(max_size=200))
    def test_whatever_comes_there_is_a_clear_answer(self, body):
        response = RestHouse().ask("POST", TOYS, content=body, headers=JSON_TYPE)
        assert response.status_code in {201, 400, 422}


class TestCallers:
    @pytest.mark.parametrize("path", ["/api/v1/toys", "/api/v1/events", "/metrics"])
    def test_nobody(self, path):
        response = RestHouse(caller=None).ask("GET", path)
        problem(response, 401, "unauthenticated")
        assert response.headers["www-authenticate"].startswith("Bearer")

    def test_nobody_over_json_rpc(self):
        problem(RestHouse(caller=None).ask("POST", "/jsonrpc", json={}), 401, "unauthenticated")

    @pytest.mark.parametrize("path", ["/api/v1", "/api/v1/openapi.json", "/docs", "/docs/reference.css"])
    def test_public(self, path):
        assert RestHouse(caller=None).ask("GET", path).status_code == 200

    @pytest.mark.parametrize(
        "header", ["Bearer wrong", "Bearer", "Bearer ", "Basic cm9vdDo=", "viewer-secret", f"Bearer {'x' * 5000}"]
    )
    def test_a_bad_header_is_refused_whoever_the_connection_says(self, header):
        problem(RestHouse().ask("GET", TOYS, headers={"Authorization": header}), 401, "unauthenticated")

    @pytest.mark.parametrize(
        ("secret", "reads", "acts", "breaks"),
        [("viewer-secret", 200, 403, 403), ("operator-secret", 200, 204, 403), ("admin-secret", 200, 204, 204)],
    )
    def test_roles(self, secret, reads, acts, breaks):
        house = RestHouse(caller=None)
        assert house.ask("GET", TOYS, headers=bearer(secret)).status_code == reads
        assert house.ask("POST", f"{TOYS}/x/stop", headers=bearer(secret)).status_code == acts
        assert house.ask("DELETE", f"{TOYS}/x", headers=bearer(secret)).status_code == breaks

    def test_a_token_counts_more_than_the_connection(self):
        response = RestHouse(caller=ROOT).ask("DELETE", f"{TOYS}/x", headers=bearer("viewer-secret"))
        problem(response, 403, "denied")

    def test_roles_over_json_rpc(self):
        request = {"jsonrpc": "2.0", "id": 1, "method": "Toy.stop", "params": {"toyId": "x"}}
        viewer = RestHouse(caller=Caller("v", Role.VIEWER, Way.CERTIFICATE)).ask("POST", "/jsonrpc", json=request)
        assert "operator" in viewer.json()["error"]["message"]

    @pytest.mark.parametrize("origin", ["http://evil.test", "null", "http://host.test.evil"])
    def test_pages_of_others_change_nothing(self, house, origin):
        response = house.ask("POST", f"{TOYS}/x/stop", headers={"Origin": origin})
        problem(response, 403, "foreign_origin")
        assert house.service.calls == []

    def test_own_pages_and_tokens_may(self, house):
        assert house.ask("POST", f"{TOYS}/x/stop", headers={"Origin": "http://host.test"}).status_code == 204
        headers = {"Origin": "http://other.test", **bearer("admin-secret")}
        assert house.ask("POST", f"{TOYS}/x/stop", headers=headers).status_code == 204


class TestJsonRpc:
    @pytest.mark.parametrize("path", ["/jsonrpc", "/api/v1/jsonrpc"])
    def test_request(self, house, path):
        request = {"jsonrpc": "2.0", "id": "a", "method": "Toy.list", "params": {"nameList": ["n"]}}
        response = house.ask("POST", path, json=request)
        assert response.json() == {"jsonrpc": "2.0", "id": "a", "result": ["n", "0", "False"]}

    def test_pooled_request(self, house):
        request = {"jsonrpc": "2.0", "id": 3, "method": "Toy.look", "params": {"toyID": "t"}}
        assert house.ask("POST", "/jsonrpc", json=request).json()["result"]["number"] == "0"

    def test_batch(self, house):
        requests = [
            {"jsonrpc": "2.0", "id": 1, "method": "Toy.list"},
            {"jsonrpc": "2.0", "method": "Toy.list"},
            {"jsonrpc": "2.0", "id": 2, "method": "Toy.none"},
        ]
        answers = house.ask("POST", "/jsonrpc", json=requests).json()
        assert [(answer["id"], "error" in answer) for answer in answers] == [(1, False), (2, True)]

    def test_notification(self, house):
        response = house.ask("POST", "/jsonrpc", json={"jsonrpc": "2.0", "method": "Toy.list"})
        assert (response.status_code, response.content) == (204, b"")

    def test_no_json(self, house):
        response = house.ask("POST", "/jsonrpc", content=b"{", headers=JSON_TYPE)
        assert (response.status_code, response.json()["error"]["code"]) == (200, -32700)
