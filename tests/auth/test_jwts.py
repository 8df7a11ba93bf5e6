import asyncio
import base64
import datetime
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st
from jose import jwk, jwt

from codegen_api.auth.issuer_keys import COOL_DOWN_SECONDS, FRESH_SECONDS, FixedKey, KeySet
from codegen_api.auth.jwts import Jwts, looks_like_jwt
from codegen_api.errors import AuthUnavailable, InvalidToken, UpstreamUnreachable
from codegen_api.identity import Caller, Credential, Principal
from codegen_api.runs import Json
from tests.auth.issuer import AUDIENCE, ISSUER, Issuer
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

OURS, OTHER = Issuer(), Issuer("second")
CREDENTIAL = Credential.of("host-token", b"key")
SECRET = "a secret that two know, and nobody else"
PEM = serialization.Encoding.PEM


def verifier(keys: Any = None, *, leeway: float = 30) -> Jwts:
    keys = keys or FixedKey(OURS.public_pem, [])
    return Jwts(keys, issuer=ISSUER, audience=AUDIENCE, leeway=leeway, credential=CREDENTIAL)


def caller_of(token: str, keys: Any = None) -> Caller:
    return run(verifier(keys).authenticate(token))


def refused(token: str, keys: Any = None) -> str:
    with pytest.raises(InvalidToken) as raised:
        caller_of(token, keys)
    assert len(token) < 10 or token not in raised.value.message
    return raised.value.message


def public(key: Any) -> str:
    text: bytes = key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


def secret(key: Any) -> str:
    text: bytes = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return text.decode()


def span(seconds: int) -> datetime.timedelta:
    """So many seconds from when the token is made."""
    return datetime.timedelta(seconds=seconds)


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


# -- who it is --------------------------------------------------------------------------------------------------------


@pytest.mark.wire("auth-jwt")
def test_a_good_token_says_who_may_do_what_and_until_when() -> None:
    ends = int(time.time()) + 100
    token = OURS.token("ann", exp=ends, scope="openid runs:read runs:everything", scp=["runs:write", 7, {}])
    assert caller_of(token) == Caller(
        Principal(f"jwt:{ISSUER}", "ann"),
        CREDENTIAL,
        None,
        scopes=frozenset({"runs:read", "runs:write"}),
        shared=True,
        expires=ends + 30,
    )


@pytest.mark.wire("scopes")
@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "runs:read"}, {"runs:read"}),
        ({"scope": None, "scp": "runs:read  runs:write:all"}, {"runs:read", "runs:write:all"}),
        ({"scope": None, "scp": ["runs:read:all"]}, {"runs:read:all"}),
        ({"scope": "runs:read,runs:write"}, {"runs:read", "runs:write"}),
        ({"scope": "openid, runs:read , runs:write:all"}, {"runs:read", "runs:write:all"}),
        ({"scope": ["openid,runs:read", "runs:write runs:read"]}, set()),
        ({"scope": ",,"}, set()),
        ({"scope": None}, set()),
        ({"scope": ""}, set()),
        ({"scope": "RUNS:READ runs:rea"}, set()),
        ({"scope": 7, "scp": {"runs:read": True}}, set()),
        ({"scope": [["runs:read"]]}, set()),
    ],
)
def test_scopes_come_from_either_claim(claims: dict[str, Any], scopes: set[str]) -> None:
    assert caller_of(OURS.token("ann", **claims)).scopes == scopes


@pytest.mark.wire("auth-jwt")
@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["billing", AUDIENCE]},
        {"exp": span(-20)},
        {"exp": time.time() + 10_000.5},
        {"nbf": span(20)},
        {"iat": "yesterday"},
        {"jti": 7, "at_hash": "x"},
        {"sub": "Zoë|auth0:7"},
    ],
)
def test_what_is_true_enough_is_good(claims: dict[str, Any]) -> None:
    assert caller_of(OURS.token("ann", **claims)).shared


@pytest.mark.wire("auth-jwt")
@pytest.mark.parametrize(
    "claims",
    [
        {"aud": None},
        {"aud": "billing"},
        {"aud": []},
        {"aud": [AUDIENCE, 7]},
        {"aud": {AUDIENCE: 1}},
        {"iss": None},
        {"iss": ISSUER[:-1]},
        {"iss": [ISSUER]},
        {"exp": None},
        pytest.param({"exp": str(int(time.time()) + 100)}, id="{'exp': a text}"),
        {"exp": True},
        {"exp": [1]},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"exp": 10**400},
        {"exp": span(-40)},
        {"nbf": span(40)},
        {"nbf": []},
        {"nbf": float("inf")},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 256},
        {"sub": "half \ud800"},
        {"sub": "two\nlines"},
    ],
    ids=str,
)
def test_what_is_not_true_or_not_said_is_refused(claims: dict[str, Any]) -> None:
    refused(OURS.token("ann", **claims))


def test_who_comes_too_late_is_told_so() -> None:
    assert "expired" in refused(OURS.token("ann", exp=1))


# -- what is forged ---------------------------------------------------------------------------------------------------


def resigned(token: str, header: dict[str, Any]) -> str:
    return f"{part(header)}.{token.split('.')[1]}.{token.split('.')[2]}"


FORGED: dict[str, Callable[[], str]] = {
    "nobody signed it": lambda: OURS.unsigned("ann"),
    "Nobody signed it": lambda: OURS.unsigned("ann", "None"),
    "NOBODY signed it": lambda: OURS.unsigned("ann", "NONE"),
    "no algorithm": lambda: resigned(OURS.token("ann"), {"typ": "JWT"}),
    "an algorithm that is no text": lambda: resigned(OURS.token("ann"), {"alg": ["RS256"]}),
    "another key": lambda: Issuer("first", OTHER.private).token("ann"),
    "another algorithm in the header": lambda: resigned(OURS.token("ann"), {"alg": "RS512", "kid": "first"}),
    "an algorithm that was not configured": lambda: jwt.encode(OURS.claims("ann"), OURS.secret_pem, "RS512"),
    "the public key as a secret": lambda: OURS.signed_with_public_key("ann"),
    "a critical header": lambda: OURS.token("ann", headers={"crit": ["b64"]}),
    "a critical header of nothing": lambda: OURS.token("ann", headers={"crit": []}),
    "an unencoded body": lambda: OURS.token("ann", headers={"b64": False}),
    "a key of its own": lambda: Issuer("first", OTHER.private).token(
        "ann", headers={"jwk": OTHER.jwks["keys"][0], "jku": "http://127.0.0.1:9/", "x5u": "http://127.0.0.1:9/"}
    ),
    "a kid that is no text": lambda: OURS.token("ann", headers={"kid": 7}),
    "a kid that is a list": lambda: OURS.token("ann", headers={"kid": ["first"]}),
    "a signature cut short": lambda: OURS.token("ann")[:-8],
    "no signature": lambda: OURS.token("ann").rpartition(".")[0] + ".",
    "two parts": lambda: OURS.token("ann").rpartition(".")[0],
    "five parts": lambda: f"{OURS.token('ann')}.e30.e30",
    "a header nested too deeply": lambda: f"{base64.b64encode(b'[' * 5000).decode()}.e30.e30",
    "a body nested too deeply": lambda: OURS.token("ann", more=json.loads("[" * 900 + "]" * 900)) + "x",
    "a header of another kind": lambda: f"{part(['alg'])}.e30.e30",
    "nothing": lambda: "..",
}


@pytest.mark.wire("auth-jwt")
@pytest.mark.parametrize("how", sorted(FORGED))
def test_a_forged_token_is_refused(how: str) -> None:
    token = FORGED[how]()
    assert refused(token) == InvalidToken.default_message
    assert refused(token, KeySet(published(OURS), [])) == InvalidToken.default_message


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda some: base64.urlsafe_b64encode(some).decode()))
def test_no_text_is_a_token(text: str) -> None:
    for token in (text, f"{text}.{text}.{text}", f"{OURS.token('ann')}{text}" if text else "x"):
        looks_like_jwt(token)
        refused(token)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["iss", "aud", "exp", "nbf", "sub", "iat", "jti", "scope", "scp"]), JSON))
def test_odd_claims_are_refused_or_mean_nothing_and_never_do_harm(claims: dict[str, Any]) -> None:
    token = jwt.encode({**OURS.claims("ann"), **claims}, OURS.secret_pem, "RS256")
    try:
        assert caller_of(token).principal.authority == f"jwt:{ISSUER}"
    except InvalidToken:
        assert claims


# -- keys that are given ----------------------------------------------------------------------------------------------


def certificate(key: Any) -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    day = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day + datetime.timedelta(days=36500))
    return built.sign(key, hashes.SHA256()).public_bytes(PEM).decode()


def test_a_key_is_a_public_one_a_certificate_or_a_secret() -> None:
    curve = ec.generate_private_key(ec.SECP384R1())
    for text, algorithms, signing, algorithm in [
        (OURS.public_pem, ["RS512"], OURS.secret_pem, "RS512"),
        (OURS.public_pem.replace("\n", "\\n"), [], OURS.secret_pem, "RS256"),
        (certificate(OURS.private), ["RS256", "ES256"], OURS.secret_pem, "RS256"),
        (public(curve), ["ES384"], secret(curve), "ES384"),
        (certificate(curve), ["ES384"], secret(curve), "ES384"),
        (SECRET, [], SECRET, "HS256"),
        (SECRET, ["HS384", "HS512"], SECRET, "HS512"),
    ]:
        token = jwt.encode(OURS.claims("ann"), signing, algorithm)
        assert caller_of(token, FixedKey(text, algorithms)).principal.user == "ann"


@pytest.mark.parametrize(
    ("text", "algorithms"),
    [
        (OURS.public_pem, ["RS256", "HS256"]),
        (OURS.public_pem, ["ES256"]),
        (public(ec.generate_private_key(ec.SECP384R1())), []),
        (public(ec.generate_private_key(ec.SECP256K1())), []),
        (public(ed25519.Ed25519PrivateKey.generate()), ["ES256"]),
        (public(ed448.Ed448PrivateKey.generate()), []),
        (OURS.secret_pem, []),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", []),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", []),
        (SECRET, ["RS256"]),
        (SECRET, ["HS256", "ES256"]),
        ("a short secret", []),
        ("", []),
    ],
)
def test_a_key_that_does_not_fit_is_refused_and_not_quoted(text: str, algorithms: list[str]) -> None:
    with pytest.raises(ValueError, match=r"\w") as raised:
        FixedKey(text, algorithms)
    assert not text or text[:30] not in str(raised.value)


def test_a_secret_is_not_taken_for_a_public_key_nor_the_other_way() -> None:
    refused(jwt.encode(OURS.claims("ann"), OURS.secret_pem, "RS256"), FixedKey(SECRET, []))
    refused(jwt.encode(OURS.claims("ann"), SECRET, "HS256"))


# -- keys that are published ------------------------------------------------------------------------------------------


class Publisher:
    """An issuer's answer to who asks for its keys: the next of ``answers``, the last one again and again."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[float] = []
        self.seconds = 0.1

    async def __call__(self) -> Json:
        self.asked.append(asyncio.get_running_loop().time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await asyncio.sleep(self.seconds)
        if isinstance(answer, Exception):
            raise answer
        found: Json = answer
        return found


def published(*issuers: Issuer) -> Publisher:
    return Publisher({"keys": [key for issuer in issuers for key in issuer.jwks["keys"]]})


@pytest.mark.wire("auth-jwt-keys")
async def test_the_key_set_is_asked_for_once_and_then_when_it_is_old() -> None:
    publisher = published(OURS)
    keys = KeySet(publisher, [])
    jwts = verifier(keys)
    await asyncio.gather(*(jwts.authenticate(OURS.token(name)) for name in "abcdefgh"))
    assert len(publisher.asked) == 1
    await asyncio.sleep(FRESH_SECONDS - 1)
    await jwts.authenticate(OURS.token("ann"))
    assert len(publisher.asked) == 1
    await asyncio.sleep(2)
    await jwts.authenticate(OURS.token("ann"))
    assert len(publisher.asked) == 2
    await keys.aclose()


@pytest.mark.wire("auth-jwt-keys")
async def test_a_new_key_is_known_when_a_token_names_it_and_an_old_one_is_forgotten() -> None:
    publisher = published(OURS)
    jwts = verifier(KeySet(publisher, []))
    await jwts.authenticate(OURS.token("ann"))
    publisher.answers = published(OTHER).answers
    await asyncio.sleep(COOL_DOWN_SECONDS)
    assert (await jwts.authenticate(OTHER.token("ann"))).principal.user == "ann"
    with pytest.raises(InvalidToken):
        await jwts.authenticate(OURS.token("ann"))


@pytest.mark.wire("auth-jwt-keys")
async def test_made_up_names_of_keys_do_not_trouble_the_issuer() -> None:
    publisher = published(OURS)
    jwts = verifier(KeySet(publisher, []))
    for number in range(600):
        with pytest.raises(InvalidToken):
            await jwts.authenticate(OURS.token("ann", headers={"kid": f"made up {number}"}))
        await asyncio.sleep(0.1)
    assert len(publisher.asked) <= 60 / COOL_DOWN_SECONDS + 1
    await jwts.authenticate(OURS.token("ann"))


@pytest.mark.wire("auth-jwt-keys")
@pytest.mark.parametrize(
    "trouble",
    [
        UpstreamUnreachable(),
        ValueError("x"),
        {},
        {"keys": []},
        {"keys": 7},
        {"keys": [7, {}, {"kty": "oct", "k": "AAAA"}]},
    ],
    ids=str,
)
def test_the_last_good_set_is_kept_while_there_is_no_other(trouble: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        publisher = published(OURS)
        jwts = verifier(KeySet(publisher, []))
        await jwts.authenticate(OURS.token("ann"))
        good, publisher.answers = publisher.answers, [trouble]
        await asyncio.sleep(10 * FRESH_SECONDS)
        await jwts.authenticate(OURS.token("ann"))
        await jwts.authenticate(OURS.token("ann"))
        assert len(publisher.asked) == 2
        with pytest.raises(AuthUnavailable) as raised:
            await jwts.authenticate(OTHER.token("ann"))  # it may be a new key
        assert raised.value.retry_after
        publisher.answers = good
        await asyncio.sleep(COOL_DOWN_SECONDS)
        with pytest.raises(InvalidToken):
            await jwts.authenticate(OTHER.token("ann"))

    with caplog.at_level(logging.WARNING):
        run(main())
    assert caplog.text.count("the issuer's keys cannot be had") == 1


@pytest.mark.wire("auth-jwt-keys")
async def test_without_a_set_nobody_can_say_and_no_answer_is_waited_for_for_ever() -> None:
    publisher = published(OURS)
    publisher.seconds = 1e6
    jwts = verifier(KeySet(publisher, []))
    with pytest.raises(AuthUnavailable):
        await jwts.authenticate(OURS.token("ann"))
    assert asyncio.get_running_loop().time() < 20
    publisher.seconds = 0
    await asyncio.sleep(COOL_DOWN_SECONDS)
    await jwts.authenticate(OURS.token("ann"))


async def test_who_asked_first_and_left_takes_nothing_from_the_others() -> None:
    jwts = verifier(KeySet(published(OURS), []))
    first = asyncio.ensure_future(jwts.authenticate(OURS.token("ann")))
    await asyncio.sleep(0.05)
    second = asyncio.ensure_future(jwts.authenticate(OURS.token("bob")))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).principal.user == "bob"


def elliptic(curve: Any, kid: str, algorithm: str) -> tuple[dict[str, Any], str]:
    key = ec.generate_private_key(curve)
    found = {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in jwk.construct(public(key), algorithm).to_dict().items()
    }
    return {**found, "kid": kid}, jwt.encode(OURS.claims("ann"), secret(key), algorithm, headers={"kid": kid})


def test_of_a_key_set_each_key_is_used_for_what_it_is_for() -> None:
    ours = OURS.jwks["keys"][0]
    curve, curved = elliptic(ec.SECP256R1(), "curve", "ES256")
    wide, widely = elliptic(ec.SECP384R1(), "wide", "ES384")
    del curve["alg"]
    for keys, algorithms, token, good in [
        ([ours], [], OURS.token("ann"), True),
        ([{**ours, "use": "enc"}, curve], [], OURS.token("ann"), False),
        ([{**ours, "key_ops": ["encrypt"]}, curve], [], OURS.token("ann"), False),
        ([{**ours, "key_ops": 7}, curve], [], OURS.token("ann"), False),
        ([{**ours, "key_ops": ["verify"]}], [], OURS.token("ann"), True),
        ([{**ours, "alg": "RS512"}, curve], [], OURS.token("ann"), False),
        ([{**ours, "kty": "oct", "k": "AAAA"}, curve], [], OURS.token("ann"), False),
        ([{**ours, "n": 7}, curve], [], OURS.token("ann"), False),
        ([{**ours, "n": "!"}, {**ours, "e": None}, ours], [], OURS.token("ann"), True),
        ([{**ours, "kid": 7}, curve], [], OURS.token("ann"), True),
        ([curve, {**ours, "kid": None}], [], OURS.token("ann"), True),
        ([{**ours, "kid": "another"}, curve], [], OURS.token("ann"), False),
        ([{**ours, "kid": None}], [], jwt.encode(OURS.claims("ann"), OURS.secret_pem, "RS256"), True),
        ([curve, OTHER.jwks["keys"][0], ours], [], jwt.encode(OURS.claims("ann"), OURS.secret_pem, "RS256"), True),
        ([curve], [], curved, True),
        ([curve], ["RS256", "ES384"], curved, False),
        ([{**curve, "crv": "P-384"}, ours], [], curved, False),
        ([wide, ours], [], widely, False),
        ([wide, ours], ["ES384"], widely, True),
    ]:
        source = KeySet(Publisher({"keys": keys}), algorithms)
        if good:
            assert caller_of(token, source).principal.user == "ann"
        else:
            with pytest.raises((InvalidToken, AuthUnavailable)):
                caller_of(token, source)


def test_a_key_set_goes_with_no_shared_secret() -> None:
    with pytest.raises(ValueError, match="no secret"):
        KeySet(published(OURS), ["RS256", "HS256"])


def test_the_shape_of_a_jwt_is_told_without_reading_it() -> None:
    assert looks_like_jwt(OURS.token("ann"))
    assert looks_like_jwt(OURS.unsigned("ann"))
    assert looks_like_jwt(f"{part({'alg': 'RSA-OAEP', 'enc': 'A256GCM'})}.a.b.c.d")
    for text in ("sandbox-alice", "a.b.c", "e30.e30.e30", "eyJ", f"{part({'alg': 1})}.a", "..", f"{part([1])}.a.b"):
        assert not looks_like_jwt(text)
