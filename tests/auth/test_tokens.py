import asyncio
import gc
from collections import Counter
from typing import Any

import pytest

from codegen_api.auth.tokens import UpstreamTokens
from codegen_api.errors import (
    AuthUnavailable,
    Forbidden,
    GatewayError,
    InvalidToken,
    QuotaExhausted,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from codegen_api.following import Position
from codegen_api.identity import Caller, Credential, Principal
from codegen_api.upstreams import User
from tests.closing import closed_later
from tests.fakehost import FakeHost, in_front_of

pytestmark = pytest.mark.virtual_time

OUTAGES = [UpstreamError(), UpstreamTimeout(), UpstreamUnreachable()]


class Host:
    """Says whose a token is, after a second, and counts how often it was asked."""

    def __init__(self) -> None:
        self.users = {"good": "7"}
        self.asked: Counter[str] = Counter()
        self.fault: GatewayError | None = None
        self.seconds = 1.0

    async def identify(self, credential: Credential) -> User:
        self.asked[credential.token] += 1
        await asyncio.sleep(self.seconds)
        if self.fault is not None:
            raise self.fault
        if credential.token not in self.users:
            raise InvalidToken("No such token.")
        return User(self.users[credential.token], {})


@pytest.mark.wire("auth-remembered")
async def test_a_thousand_first_requests_at_the_same_time_make_one_call() -> None:
    host = Host()
    tokens = closed_later(UpstreamTokens(host.identify, "fake"))
    callers = await asyncio.gather(*(tokens.authenticate("good") for _ in range(1000)))
    assert host.asked == {"good": 1}
    assert {caller.principal for caller in callers} == {Principal("fake", "7")}


@pytest.mark.wire("auth-remembered")
async def test_a_thousand_first_requests_with_a_bad_token_make_one_call_too() -> None:
    host = Host()
    tokens = closed_later(UpstreamTokens(host.identify, "fake"))
    outcomes = await asyncio.gather(*(tokens.authenticate("bad") for _ in range(1000)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {InvalidToken}
    assert host.asked == {"bad": 1}


async def test_a_first_caller_who_leaves_does_not_take_the_answer_from_the_others() -> None:
    host = Host()
    tokens = closed_later(UpstreamTokens(host.identify, "fake"))
    asking = [asyncio.create_task(tokens.authenticate("good")) for _ in range(10)]
    await asyncio.sleep(0.5)
    asking[0].cancel()
    callers = await asyncio.gather(*asking[1:])
    assert len(callers) == 9
    assert host.asked == {"good": 1}


@pytest.mark.wire("auth-remembered")
@pytest.mark.parametrize("seconds", [60.0, 5.0])
async def test_a_yes_holds_for_the_time_given_and_no_longer(seconds: float) -> None:
    host = Host()
    tokens = closed_later(UpstreamTokens(host.identify, "fake", good_seconds=seconds))
    await tokens.authenticate("good")
    host.users.clear()
    await asyncio.sleep(seconds - 0.1)
    await tokens.authenticate("good")
    assert host.asked["good"] == 1
    await asyncio.sleep(0.2)
    with pytest.raises(InvalidToken):
        await tokens.authenticate("good")
    assert host.asked["good"] == 2


@pytest.mark.wire("auth-remembered")
@pytest.mark.parametrize("refusal", [InvalidToken("No such token."), Forbidden("Not from here.")])
async def test_a_no_holds_for_ten_seconds_and_says_the_same(refusal: GatewayError) -> None:
    host = Host()
    host.fault = refusal
    tokens = closed_later(UpstreamTokens(host.identify, "fake"))
    for _ in range(10):
        with pytest.raises(type(refusal)) as raised:
            await tokens.authenticate("good")
        assert raised.value.message == refusal.message
        await asyncio.sleep(0.95)
    assert host.asked["good"] == 1
    host.fault = None
    await asyncio.sleep(1)
    await tokens.authenticate("good")


async def test_the_same_person_is_the_same_principal_with_whatever_token() -> None:
    host = Host()
    host.users["other"] = "7"
    tokens = closed_later(UpstreamTokens(host.identify, "fake"))
    one, other = await tokens.authenticate("good"), await tokens.authenticate("other")
    assert one.principal == other.principal
    assert one.credential != other.credential


async def test_a_digest_says_nothing_without_the_key_of_the_process() -> None:
    host = Host()
    one, other = UpstreamTokens(host.identify, "fake"), UpstreamTokens(host.identify, "fake")
    digests = {(await tokens.authenticate("good")).credential.digest for tokens in (one, other)}
    assert len(digests) == 2
    for tokens in (one, other):
        await tokens.aclose()


# -- outages ----------------------------------------------------------------------------------------------------------


@pytest.mark.wire("auth-outage")
@pytest.mark.parametrize("fault", [*OUTAGES, UpstreamRateLimited(retry_after=3)])
async def test_a_token_that_was_good_stays_good_for_five_minutes_of_outage(fault: GatewayError) -> None:
    host = Host()
    tokens = closed_later(UpstreamTokens(host.identify, "fake"))
    await tokens.authenticate("good")
    confirmed = asyncio.get_running_loop().time()
    host.fault = fault
    while asyncio.get_running_loop().time() < confirmed + 295:
        await asyncio.sleep(3)
        assert (await tokens.authenticate("good")).principal.user == "7"
    await asyncio.sleep(6)
    with pytest.raises((AuthUnavailable, UpstreamRateLimited)):
        await tokens.authenticate("good")
    host.fault = None
    assert (await tokens.authenticate("good")).principal.user == "7"


@pytest.mark.wire("auth-outage")
@pytest.mark.parametrize("fault", OUTAGES)
async def test_an_unknown_token_during_an_outage_is_nobody_s_fault(fault: GatewayError) -> None:
    host = Host()
    host.fault = fault
    tokens = closed_later(UpstreamTokens(host.identify, "fake"))
    with pytest.raises(AuthUnavailable) as raised:
        await tokens.authenticate("good")
    assert raised.value.retry_after == 5
    assert raised.value.__cause__ is fault
    host.fault = None
    await tokens.authenticate("good")  # an outage is not remembered


@pytest.mark.wire("auth-outage")
async def test_a_host_that_asks_for_patience_is_quoted() -> None:
    host = Host()
    host.fault = UpstreamRateLimited(retry_after=17)
    tokens = closed_later(UpstreamTokens(host.identify, "fake"))
    with pytest.raises(UpstreamRateLimited) as raised:
        await tokens.authenticate("good")
    assert raised.value.retry_after == 17


async def test_a_refusal_ends_the_grace() -> None:
    host = Host()
    tokens = closed_later(UpstreamTokens(host.identify, "fake"))
    await tokens.authenticate("good")
    await asyncio.sleep(70)
    host.fault = InvalidToken()
    with pytest.raises(InvalidToken):
        await tokens.authenticate("good")
    host.fault = UpstreamError()
    await asyncio.sleep(11)
    with pytest.raises(AuthUnavailable):
        await tokens.authenticate("good")


async def test_another_answer_of_the_host_is_passed_on_and_not_remembered() -> None:
    host = Host()
    host.fault = QuotaExhausted()
    tokens = closed_later(UpstreamTokens(host.identify, "fake"))
    for _ in range(2):
        with pytest.raises(QuotaExhausted):
            await tokens.authenticate("good")
    assert host.asked["good"] == 2


# -- what is kept -----------------------------------------------------------------------------------------------------


def reachable(*roots: object) -> list[object]:
    """Every object that can be reached from ``roots`` without passing through code or modules."""
    seen: dict[int, object] = {}
    pending: list[object] = list(roots)
    while pending:
        found = pending.pop()
        if id(found) in seen or isinstance(found, type | type(gc) | type(reachable) | asyncio.AbstractEventLoop):
            continue
        seen[id(found)] = found
        pending.extend(gc.get_referents(found))
    return list(seen.values())


def holds(token: str, *roots: object) -> bool:
    return any(isinstance(each, str) and token in each for each in reachable(*roots)) or any(
        isinstance(each, bytes) and token.encode() in each for each in reachable(*roots)
    )


async def test_what_is_kept_is_bounded() -> None:
    host = Host()
    host.users = {f"good-{number}": str(number) for number in range(200)}
    tokens = closed_later(UpstreamTokens(host.identify, "fake", at_most=50))
    await asyncio.gather(
        *(tokens.authenticate(f"{kind}-{n}") for kind in ("good", "bad") for n in range(200)),
        return_exceptions=True,
    )
    principals = sum(isinstance(each, Principal) for each in reachable(tokens))
    refusals = sum(isinstance(each, tuple) and each[:1] == (InvalidToken,) for each in reachable(tokens))
    assert 0 < principals <= 50
    assert 0 < refusals <= 50


async def test_no_cache_holds_a_token() -> None:
    token = "sk-a-token-that-is-nowhere-else"

    host = FakeHost()
    host.tokens[token] = "3"
    host.add(status="COMPLETE").append(3)
    gateway = in_front_of(host, linger=1)
    tokens = closed_later(UpstreamTokens(gateway.accounts.identify, "fake"))

    async def visit() -> None:
        caller: Caller = await tokens.authenticate(token)
        assert await gateway.accounts.organization(caller, None) == "9"
        await gateway.get(caller, "9", "1")
        stream = await gateway.follow(caller, "9", "1", Position(0))
        assert stream is not None
        assert [update async for update in stream]
        await stream.aclose()

    await visit()
    await asyncio.sleep(5)
    host.log.clear()
    host.tokens.clear()
    gc.collect()
    assert not holds(token, tokens, gateway)


async def test_a_refusal_that_is_remembered_does_not_hold_the_token() -> None:
    tokens = closed_later(UpstreamTokens(Host().identify, "fake"))
    for _ in range(2):
        with pytest.raises(InvalidToken):
            await tokens.authenticate("sk-a-token-that-is-bad")
    gc.collect()
    assert not holds("sk-a-token-that-is-bad", tokens)


def test_the_search_for_tokens_would_find_one() -> None:
    kept: Any = {"a": [Credential.of("sk-hidden", b"key")]}
    assert holds("sk-hidden", kept)
    assert "sk-hidden" not in repr(kept)
