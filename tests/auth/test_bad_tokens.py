"""Tokens that nobody has seen before: how many bad ones are shown to the host, and that this keeps no good one out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv6Address

import pytest

from codegen_api.auth.tokens import UpstreamTokens
from codegen_api.errors import AuthUnavailable, GatewayError, InvalidToken, RateLimited
from tests.auth.test_tokens import Host

pytestmark = pytest.mark.virtual_time

AT_MOST, EACH = 30, 10
HERE, ELSEWHERE = "192.0.2.1", "198.51.100.7"


@asynccontextmanager
async def asking(host: Host) -> AsyncIterator[UpstreamTokens]:
    tokens = UpstreamTokens(host.identify, "fake", bad_per_minute=AT_MOST)
    try:
        yield tokens
    finally:
        await tokens.aclose()


async def shown(tokens: UpstreamTokens, names: list[str], address: str) -> list[BaseException | object]:
    return await asyncio.gather(*(tokens.authenticate(name, address) for name in names), return_exceptions=True)


def bad(count: int, what: str = "bad") -> list[str]:
    return [f"{what} {number}" for number in range(count)]


@pytest.mark.wire("auth-strangers")
@pytest.mark.parametrize("together", [True, False], ids=["at once", "one after another"])
async def test_three_hundred_bad_tokens_cost_the_host_ten_calls(together: bool) -> None:
    host = Host()
    async with asking(host) as tokens:
        if together:
            outcomes = await shown(tokens, bad(300), HERE)
        else:
            host.seconds = 0
            outcomes = [(await shown(tokens, [name], HERE))[0] for name in bad(300)]
        assert host.asked.total() == EACH
        kinds = [type(outcome) for outcome in outcomes]
        assert (kinds.count(InvalidToken), kinds.count(RateLimited)) == (EACH, 300 - EACH)
        refusals = [each.retry_after or 0 for each in outcomes if isinstance(each, RateLimited)]
        assert all(0 < seconds <= 60 / EACH for seconds in refusals)


@pytest.mark.wire("auth-strangers")
async def test_bad_tokens_of_strangers_keep_out_neither_who_is_known_nor_who_comes_from_elsewhere() -> None:
    host = Host()
    host.users = {"good": "7", "new": "8", "late": "9"}
    async with asking(host) as tokens:
        await tokens.authenticate("good", HERE)
        await asyncio.sleep(1000)  # what was known of it has to be asked again
        await shown(tokens, bad(300), HERE)
        assert (await tokens.authenticate("good", HERE)).principal.user == "7"
        assert (await tokens.authenticate("new", ELSEWHERE)).principal.user == "8"
        with pytest.raises(RateLimited) as raised:
            await tokens.authenticate("late", HERE)
        await asyncio.sleep(raised.value.retry_after or 0)
        assert (await tokens.authenticate("late", HERE)).principal.user == "9"


@pytest.mark.wire("auth-strangers")
async def test_all_strangers_together_cost_a_bounded_number_of_calls() -> None:
    host = Host()
    async with asking(host) as tokens:
        for number in range(20):
            await shown(tokens, bad(20, f"bad {number}"), f"192.0.2.{number}")
        assert host.asked.total() == pytest.approx(AT_MOST, abs=5)
        before = host.asked.total()
        for number in range(60):  # a minute of it
            await shown(tokens, bad(20, f"more {number}"), f"198.51.100.{number}")
            await asyncio.sleep(1)
        assert host.asked.total() - before <= 2 * AT_MOST + 5


@pytest.mark.wire("auth-strangers")
async def test_an_office_full_of_new_users_is_let_in() -> None:
    host = Host()
    host.users = {f"good {number}": str(number) for number in range(100)}
    async with asking(host) as tokens:
        outcomes = await shown(tokens, list(host.users), HERE)
        assert not [each for each in outcomes if isinstance(each, GatewayError)]
        assert asyncio.get_running_loop().time() < 20


@pytest.mark.wire("auth-strangers")
async def test_who_has_many_addresses_of_one_network_is_one_stranger() -> None:
    host = Host()
    host.seconds = 0
    async with asking(host) as tokens:
        for number in range(100):
            await shown(tokens, [f"bad {number}"], str(IPv6Address("2001:db8::") + number * 10**9))
        assert host.asked.total() == EACH
        await shown(tokens, ["another"], "2001:db8:0:1::1")
        await shown(tokens, ["and another"], f"::ffff:{HERE}")
        await shown(tokens, bad(EACH, "more"), HERE)
        assert host.asked.total() == EACH + 1 + EACH  # the same address, however it is written


async def test_nobody_waits_for_ever_until_it_is_known_how_it_is_with_others() -> None:
    host = Host()
    host.seconds = 1e6
    async with asking(host) as tokens:
        before = [asyncio.ensure_future(tokens.authenticate(name, HERE)) for name in bad(EACH)]
        await asyncio.sleep(1)
        with pytest.raises(AuthUnavailable):
            await tokens.authenticate("good", HERE)
        assert asyncio.get_running_loop().time() < 60
        for each in before:
            each.cancel()


async def test_a_fault_of_the_host_is_nobody_s_bad_token() -> None:
    host = Host()
    host.fault = AuthUnavailable()
    host.seconds = 0
    async with asking(host) as tokens:
        for name in bad(5 * EACH):
            with pytest.raises(AuthUnavailable):
                await tokens.authenticate(name, HERE)
        host.fault = None
        assert (await tokens.authenticate("good", HERE)).principal.user == "7"
