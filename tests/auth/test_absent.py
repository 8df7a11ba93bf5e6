"""Who asked for something that is to be done later is spoken for with the deployment's token when they have gone."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from codegen_api.auth.callers import Callers
from codegen_api.auth.jwts import Jwts
from codegen_api.auth.keys import RELOAD_SECONDS, Keys, new_key
from codegen_api.errors import InvalidToken
from codegen_api.identity import READ, WRITE, Credential, Principal
from tests.auth.issuer import AUDIENCE, ISSUER, Issuer
from tests.auth.test_keys import File

pytestmark = pytest.mark.virtual_time

CREDENTIAL = Credential.of("host-token", b"key")
ANN, ROBOT = Principal(f"jwt:{ISSUER}", "ann"), Principal("key", "robot")


def issuer_s() -> Jwts:
    keys: Any = Issuer()
    return Jwts(keys, issuer=ISSUER, audience=AUDIENCE, leeway=30, credential=CREDENTIAL)


def test_a_user_of_the_issuer_may_do_what_is_their_own_and_no_more() -> None:
    caller = Callers(jwts=issuer_s()).absent(ANN)
    assert caller is not None
    assert (caller.principal, caller.credential, caller.shared) == (ANN, CREDENTIAL, True)
    assert caller.scopes == {READ, WRITE}
    assert (caller.shown, caller.expires) == (None, None)
    caller.confirm()


async def test_a_key_may_do_what_its_line_says_now() -> None:
    now = [1_000.0]
    key, line = new_key("robot", ["runs:read", "runs:write"], "323", "2030-01-01")
    file = File(line)
    callers = Callers(keys=Keys(file, credential=CREDENTIAL, clock=lambda: now[0]))
    caller = callers.absent(ROBOT)
    assert caller is not None
    assert replace(caller, shown=key) == await callers.authenticate(key)
    assert caller.shown is None
    caller.confirm()
    now[0] = 2_000_000_000.0
    assert callers.absent(ROBOT) is None, "it has expired"
    now[0] = 1_000.0
    file.text = new_key("another", ["runs:read"])[1]
    await asyncio.sleep(RELOAD_SECONDS)
    assert callers.absent(ROBOT) is None, "it was taken out of the list"
    with pytest.raises(InvalidToken):
        caller.confirm()


@pytest.mark.parametrize(
    "principal",
    [
        Principal("jwt:https://another.example", "ann"),
        Principal("codegen", "1"),
        Principal("key", "ann"),
        replace(ANN, authority="key"),
    ],
)
async def test_nobody_speaks_for_who_is_not_theirs(principal: Principal) -> None:
    keys = Keys(File(new_key("robot", ["runs:read"])[1]), credential=CREDENTIAL)
    assert Callers(jwts=issuer_s(), keys=keys).absent(principal) is None
    assert Callers().absent(ANN) is None
