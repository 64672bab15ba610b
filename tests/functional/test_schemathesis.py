"""Schemathesis plays the OpenAPI document against the whole agent: what it says is what happens."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    missing_required_header,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from needs import needs
from simulated_agent import SimulatedAgent, simulated_agent
from vdsm.api.catalogue import all_verbs
from vdsm.bindings.openapi import document

pytestmark = needs("root", "program:qemu-img", "program:openssl")

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    ignored_auth,
    missing_required_header,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]
EXAMPLES = 15

# The stream of events has no end.
schema = schemathesis.openapi.from_dict(document(all_verbs())).exclude(path="/events")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedAgent]:
    # Host.setLogLevel is among the verbs, and this is the test's own process.
    level = logging.getLogger().level
    with simulated_agent(tmp_path_factory.mktemp("schemathesis")) as running:
        yield running
    logging.getLogger().setLevel(level)


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as kept:
        yield kept


@pytest.fixture(scope="module")
def secret(agent: SimulatedAgent) -> str:
    return agent.token("schemathesis", "admin")


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_document_is_true(
    case: schemathesis.Case, agent: SimulatedAgent, session: requests.Session, secret: str
) -> None:
    if case.operation.label == "DELETE /tokens/{name}" and case.path_parameters.get("name") == "schemathesis":
        return
    # JSON-RPC tells of its errors in answers with status 200.
    excluded = [negative_data_rejection] if case.path == "/jsonrpc" else []
    case.call_and_validate(
        base_url=f"{agent.url}/api/v1",
        verify=str(agent.authority_file),
        headers={"Authorization": f"Bearer {secret}"},
        checks=CHECKS,
        excluded_checks=excluded,
        session=session,
        timeout=20,
    )
