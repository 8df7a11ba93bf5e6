"""What the Codegen adapter tells its observer of each exchange."""

import time

import httpx
import pytest

from codegen_api import errors
from codegen_api.telemetry import Allowance, Exchange, Observer
from codegen_api.upstreams import NewRun
from codegen_api.upstreams.codegen import CodegenUpstream

from .asking import CREDENTIAL, REF, RUN, ask_upstream, get_run

LOG = RUN[:-1] + b',"logs":[]}'


class Witness(Observer):
    def __init__(self) -> None:
        self.begun: list[tuple[str, str]] = []
        self.over: list[Exchange] = []

    def asking(self, credential: str, operation: str) -> None:
        self.begun.append((credential, operation))

    def asked(self, exchange: Exchange) -> None:
        self.over.append(exchange)


def upstream_of(answer: httpx.Response | Exception) -> tuple[CodegenUpstream, Witness]:
    def handle(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    upstream = CodegenUpstream("https://host.example", transport=httpx.MockTransport(handle))
    upstream.observer = witness = Witness()
    return upstream, witness


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("identify", lambda upstream: upstream.identify(CREDENTIAL)),
        ("organizations", lambda upstream: upstream.organizations(CREDENTIAL, 0, 100)),
        ("users", lambda upstream: upstream.users(CREDENTIAL, "323", 0, 100)),
        ("repositories", lambda upstream: upstream.repositories(CREDENTIAL, "323", 0, 100)),
        ("user", lambda upstream: upstream.user(CREDENTIAL, "323", "7")),
        ("create_run", lambda upstream: upstream.create_run(CREDENTIAL, "323", NewRun("Say hello"))),
        ("get_run", lambda upstream: upstream.get_run(CREDENTIAL, REF)),
        ("resume_run", lambda upstream: upstream.resume_run(CREDENTIAL, REF, "On", None)),
        ("cancel_run", lambda upstream: upstream.cancel_run(CREDENTIAL, REF)),
        ("uncancel_run", lambda upstream: upstream.uncancel_run(CREDENTIAL, REF)),
        ("read_log", lambda upstream: upstream.read_log(CREDENTIAL, REF, 0, 100)),
    ],
)
def test_each_exchange_is_observed_once_by_the_name_of_its_operation(operation: str, call: object) -> None:
    body = b'{"items":[]}' if operation in ("organizations", "users", "repositories") else LOG
    upstream, witness = upstream_of(httpx.Response(200, content=body))
    ask_upstream(upstream, call)  # type: ignore[arg-type]
    assert witness.begun == [(CREDENTIAL.digest, operation)]
    (exchange,) = witness.over
    assert (exchange.credential, exchange.operation, exchange.outcome) == (CREDENTIAL.digest, operation, "ok")
    assert exchange.seconds >= 0
    assert (exchange.retry_after, exchange.allowance) == (None, None)


@pytest.mark.parametrize(
    ("answer", "outcome", "retry_after"),
    [
        (httpx.Response(429, json={"message": "Slow."}, headers={"Retry-After": "7"}), "upstream_rate_limited", 7),
        (httpx.Response(404, json={"message": "No."}), "not_found", None),
        (httpx.Response(503, text="<html>"), "upstream_error", None),
        (httpx.ConnectError("refused"), "upstream_unreachable", None),
    ],
)
def test_what_went_wrong_is_observed_by_the_code_of_its_error(
    answer: httpx.Response | Exception, outcome: str, retry_after: float | None
) -> None:
    upstream, witness = upstream_of(answer)
    with pytest.raises(errors.GatewayError):
        ask_upstream(upstream, get_run)
    assert [(exchange.outcome, exchange.retry_after) for exchange in witness.over] == [(outcome, retry_after)]
    assert len(witness.begun) == 1


@pytest.mark.parametrize(
    ("headers", "allowance"),
    [
        ({"RateLimit": '"default";r=50;t=30'}, Allowance(50, 30)),
        ({"RateLimit": '"burst";r=9;t=1, "day";r=3;t=900'}, Allowance(3, 900)),
        ({"RateLimit": '"burst";r=5, "daily";r=1000;t=86400'}, Allowance(1000, 3600)),
        ({"RateLimit": '"default";t=30;pk=:abc=:;r=50'}, Allowance(50, 30)),
        ({"RateLimit": "limit=100, remaining=20, reset=5"}, Allowance(20, 5)),
        ({"RateLimit-Remaining": "0", "RateLimit-Reset": "12"}, Allowance(0, 12)),
        ({"X-RateLimit-Remaining": "8", "X-RateLimit-Reset": "60"}, Allowance(8, 60)),
        ({"X-RateLimit-Remaining": "8", "X-RateLimit-Reset": "999999"}, Allowance(8, 3600)),
        ({"X-RateLimit-Remaining": "8", "X-RateLimit-Reset": "1000000001"}, Allowance(8, 0)),
        ({"X-RateLimit-Remaining": "many", "X-RateLimit-Reset": "60"}, None),
        ({"X-RateLimit-Remaining": "8"}, None),
        ({"RateLimit": "nonsense"}, None),
        ({}, None),
    ],
)
def test_what_the_host_says_is_left_is_understood_in_each_of_its_forms(
    headers: dict[str, str], allowance: Allowance | None
) -> None:
    upstream, witness = upstream_of(httpx.Response(200, content=RUN, headers=headers))
    ask_upstream(upstream, get_run)
    assert witness.over[0].allowance == allowance


def test_a_reset_may_be_a_moment_instead_of_a_duration() -> None:
    headers = {"X-RateLimit-Remaining": "8", "X-RateLimit-Reset": str(int(time.time()) + 100)}
    upstream, witness = upstream_of(httpx.Response(200, content=RUN, headers=headers))
    ask_upstream(upstream, get_run)
    allowance = witness.over[0].allowance
    assert allowance is not None
    assert 90 < allowance.seconds <= 100
