"""The issuers that are used most, with the lines that docs/operating.md has for each, and tokens shaped like theirs;
and the first mistakes that are made with any of them, each with what the log says of it.
"""

import asyncio
import base64
import logging
import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jose import jws

from codegen_api import build_auth
from codegen_api.auth.callers import LONGEST_TOKEN, Callers
from codegen_api.auth.issuer_keys import FRESH_SECONDS, FixedKey, KeySet
from codegen_api.auth.jwts import Claims, Jwts
from codegen_api.auth.keys import Keys, new_key
from codegen_api.auth.tokens import UpstreamTokens
from codegen_api.errors import AuthUnavailable, GatewayError, InvalidToken, TokenTooLong, UpstreamUnreachable
from codegen_api.identity import SCOPES
from codegen_api.telemetry import Observer
from tests.auth.issuer import AUDIENCE, ISSUER, Issuer
from tests.auth.test_jwts import CREDENTIAL, OURS, Publisher, caller_of, part, published, refused, span, verifier
from tests.auth.test_tokens import Host
from tests.dialects.site import settings
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

OPERATING = (Path(__file__).parents[2] / "docs/operating.md").read_text()
OWN = {"read": "runs:read", "write": "runs:write"}
BOTH = frozenset(OWN.values())

SHAPES: dict[str, tuple[dict[str, Any], frozenset[str]]] = {
    "Microsoft Entra ID": (
        {
            "aio": "AUQAu/8TAAAA",
            "azp": "0a1b2c3d-0000-0000-0000-000000000001",
            "azpacr": "0",
            "groups": [f"{number:08x}-9c7d-4c4e-8a57-3f1e5a7d2c11" for number in range(200)],
            "oid": "690222be-ff1a-4d56-abd1-7e4f7d38e474",
            "roles": ["runs:read:all"],
            "scope": None,
            "scp": "runs:read runs:write",
            "sub": "HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ",
            "tid": "TENANT-ID",
            "ver": "2.0",
        },
        BOTH | {"runs:read:all"},
    ),
    "Auth0": (
        {
            "aud": ["https://agents.example.com", "https://TENANT.auth0.com/userinfo"],
            "azp": "1Rk8oB0QyQ9",
            "permissions": ["runs:read", "runs:write"],
            "scope": "openid profile",
            "sub": "google-oauth2|105612301231",
        },
        BOTH,
    ),
    "Okta": (
        {
            "cid": "0oa1abcd",
            "scope": None,
            "scp": ["openid", "runs:read", "runs:write"],
            "sub": "ann@example.com",
            "uid": "00u1abcd",
            "ver": 1,
        },
        BOTH,
    ),
    "Keycloak": (
        {
            "aud": ["codegen-gateway", "account"],
            "azp": "web",
            "groups": ["/staff"],
            "preferred_username": "ann",
            "realm_access": {"roles": ["default-roles-people", "offline_access", "agents"]},
            "resource_access": {"account": {"roles": ["manage-account"]}},
            "scope": "openid email profile",
            "sub": "f3c1a0a2-7e1b-4f6c-9d1c-1d1f5a4f0a11",
            "typ": "Bearer",
        },
        BOTH,
    ),
    "Amazon Cognito": (
        {
            "aud": None,
            "client_id": "CLIENT-ID",
            "cognito:groups": ["staff"],
            "scope": "openid gateway/runs:read gateway/runs:write",
            "sub": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
            "token_use": "access",
            "version": 2,
        },
        BOTH,
    ),
    "Google": (
        {
            "at_hash": "HK6E_P6Dh8Y93mRNtsDB1Q",
            "azp": "CLIENT-ID.apps.googleusercontent.com",
            "email": "ann@example.com",
            "email_verified": "true",
            "hd": "example.com",
            "scope": None,
            "sub": "10769150350006150715113082367",
        },
        BOTH,
    ),
}
"""What their access tokens say (Google's: its ID tokens), as their own documents show them; and what that opens."""


def lines_for(name: str) -> dict[str, str]:
    """The settings that operating.md has for an issuer."""
    (block,) = re.findall(rf"^```sh\n# {re.escape(name)}\b.*?\n(.*?)^```$", OPERATING, re.MULTILINE | re.DOTALL)
    found = dict(line.removeprefix("CODEGEN_").split("=", 1) for line in block.splitlines() if line[:1] != "#")
    return {key.lower(): value.strip("'") for key, value in found.items()}


@pytest.mark.wire("auth-jwt", "scopes")
@pytest.mark.parametrize("name", SHAPES)
async def test_with_the_lines_of_the_documents_the_tokens_of_an_issuer_are_understood(name: str) -> None:
    lines = lines_for(name)
    assert len(lines) <= 4
    assert "jwt_jwks_url" not in lines
    given = settings(auth="jwt", api_token="t", secret_key="k" * 32, jwt_key=OURS.public_pem, **lines)
    build_auth.require(settings(auth="jwt", api_token="t", secret_key="k" * 32, **lines))  # the issuer says the rest
    claims, scopes = SHAPES[name]
    issuer = Issuer(given=OURS.private, name=lines["jwt_issuer"])
    audience = {} if "aud" in claims else {"aud": lines["jwt_audience"]}
    token = issuer.token("somebody", **{**audience, **claims})

    async with AsyncExitStack() as closing:
        callers = build_auth.callers(given, None, closing, 60, Observer())  # type: ignore[arg-type]
        caller = await callers.authenticate(token)
        assert caller.principal.user == claims["sub"]
        assert caller.scopes == scopes
        for wrong in ({"aud": "other", "client_id": "other"}, {"iss": "https://other.example"}):
            with pytest.raises(InvalidToken):
                await callers.authenticate(issuer.token("somebody", **{**audience, **claims, **wrong}))


@pytest.mark.wire("scopes")
@pytest.mark.parametrize(
    ("claims", "said", "scopes"),
    [
        (Claims(scopes=["permissions"]), {"permissions": ["runs:read"]}, {"runs:read"}),
        (Claims(scopes=["a.b.c"]), {"a": {"b": {"c": "runs:read"}}}, {"runs:read"}),
        (Claims(scopes=["a.b.c"]), {"a.b": {"c": "runs:read"}}, {"runs:read"}),
        (Claims(scopes=["a.b.c"]), {"a": {"b.c": ["runs:read"]}}, {"runs:read"}),
        (Claims(scopes=["a.b.c"]), {"a": ["runs:read"], "a.b": "runs:read"}, set()),
        (Claims(scopes=["https://a.example/roles"]), {"https://a.example/roles": ["runs:read"]}, {"runs:read"}),
        (Claims(scopes=["cognito:groups"]), {"cognito:groups": ["runs:write"]}, {"runs:write"}),
        (Claims(prefix="api://x/"), {"scope": "api://x/runs:read runs:write"}, {"runs:read"}),
        (Claims(prefix="api://x/"), {"scope": "api://x/runs:read,api://x/runs:write"}, BOTH),
        (Claims(prefix="x:"), {"scope": "x:x:runs:read"}, set()),
        (Claims(scopes=["role"], granted={"staff": BOTH}), {"role": "staff,guests"}, BOTH),
        (Claims(scopes=["role"], granted={"ou=a,o=b": BOTH}), {"role": "ou=a,o=b"}, BOTH),
        (Claims(scopes=["groups"], granted={"a b": SCOPES}), {"groups": ["a b"]}, SCOPES),
        (Claims(scopes=["groups"], granted={"a b": SCOPES}), {"groups": "a b"}, set()),
        (Claims(granted={"*": BOTH}), {}, BOTH),
        (Claims(granted={"*": BOTH}), {"scope": "runs:read:all"}, BOTH | {"runs:read:all"}),
        (Claims(granted={"*": frozenset()}), {"scope": "*"}, set()),
        (Claims(scopes=["groups"]), {"groups": {"runs:read": True}}, set()),
    ],
)
def test_what_somebody_may_do_is_found_where_the_issuer_says_it(claims: Claims, said: Any, scopes: set[str]) -> None:
    jwts = Jwts(
        FixedKey(OURS.public_pem, []),
        issuer=ISSUER,
        audience=AUDIENCE,
        leeway=30,
        credential=CREDENTIAL,
        claims=claims,
    )
    caller = run(jwts.authenticate(OURS.token("ann", **{"scope": None, **said})))
    assert caller.scopes == scopes


# -- algorithms -------------------------------------------------------------------------------------------------------

EDWARDS = ed25519.Ed25519PrivateKey.generate()


def signed(algorithm: str, user: str = "ann", **header: str) -> str:
    said = f"{part({'alg': algorithm, **header})}.{part(OURS.claims(user))}"
    if algorithm == "EdDSA":
        signature = EDWARDS.sign(said.encode())
    else:
        hash = SHA512() if algorithm == "PS512" else SHA256()  # noqa: A001
        scheme = padding.PSS(padding.MGF1(hash), hash.digest_size)
        signature = OURS.private.sign(said.encode(), scheme, hash)
    return f"{said}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def edwards(**more: str) -> dict[str, str]:
    raw = EDWARDS.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "x": x, **more}


@pytest.mark.wire("auth-jwt")
def test_ed25519_and_pss_are_taken_with_the_keys_that_are_theirs() -> None:
    ours = {name: value for name, value in OURS.jwks["keys"][0].items() if name != "alg"}
    pem = EDWARDS.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    both = Publisher({"keys": [ours, edwards(kid="e")]})
    assert caller_of(signed("EdDSA"), FixedKey(pem, [])).principal.user == "ann"
    assert caller_of(signed("EdDSA", kid="e"), KeySet(both, [])).principal.user == "ann"
    assert caller_of(signed("PS256", kid="first"), KeySet(both, ["PS256"])).principal.user == "ann"
    assert caller_of(signed("PS512"), FixedKey(OURS.public_pem, ["PS512"])).principal.user == "ann"
    for token, source in [
        (signed("PS256", kid="first"), KeySet(both, [])),  # not unless it was chosen
        (signed("PS256"), FixedKey(OURS.public_pem, ["PS512"])),
        (OURS.token("ann"), FixedKey(OURS.public_pem, ["PS256"])),
        (signed("EdDSA", kid="first"), KeySet(both, [])),
        (signed("EdDSA")[:-4] + "AAAA", FixedKey(pem, [])),
        (signed("PS512")[:-4] + "AAAA", FixedKey(OURS.public_pem, ["PS512"])),
        (signed("EdDSA", kid="e"), KeySet(Publisher({"keys": [ours, edwards(kid="e", use="enc")]}), [])),
    ]:
        refused(token, source)


async def test_the_example_of_rfc_8037_is_good_and_no_other_text_is() -> None:
    key = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    said = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
    signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"

    source = KeySet(Publisher({"keys": [key]}), [])
    assert await source.payload(f"{said}.{signature}", "EdDSA", None) == b"Example of Ed25519 signing"
    assert await source.payload(f"{said}xxxx.{signature}", "EdDSA", None) is None


# -- first mistakes ---------------------------------------------------------------------------------------------------


def callers(keys: Any = None) -> Callers:
    return Callers(jwts=verifier(keys))


def said_of(token: str, caplog: pytest.LogCaptureFixture, source: Callers | None = None) -> str:
    """What the log says of a token that is refused."""
    caplog.clear()
    with caplog.at_level(logging.INFO), pytest.raises((InvalidToken, AuthUnavailable, TokenTooLong)):
        run((source or callers()).authenticate(token))
    lines = [record.getMessage() for record in caplog.records if "a token was not taken" in record.getMessage()]
    (line,) = lines
    assert all(each not in caplog.text for each in token.split(".") if len(each) > 20)
    return line.removeprefix("a token was not taken: ")


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": ISSUER[:-1]}, f'iss: expected "{ISSUER}", found "{ISSUER[:-1]}"'),
        ({"aud": "billing"}, 'aud: expected "gateway", found "billing"'),
        ({"aud": ["a", "b"]}, 'aud: expected "gateway", found ["a", "b"]'),
        ({"aud": None}, 'aud: expected "gateway", found null'),
        ({"exp": span(-100)}, "exp: it expired 100 seconds ago"),
        ({"exp": None}, "exp: expected a time, found null"),
        ({"nbf": span(100)}, "nbf: it is good in 100 seconds"),
        ({"sub": None}, "sub: expected a text of 1 to 255 printable characters"),
        ({"aud": "evil\nINFO all is well"}, r'aud: expected "gateway", found "evil\nINFO all is well"'),
        ({"aud": "\u2028\x1b[2J"}, r'aud: expected "gateway", found "\u2028\u001b[2J"'),
        ({"aud": "x" * 5000}, f'aud: expected "gateway", found "{"x" * 99}...'),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_the_log_says_which_claim_is_wrong_with_what_was_expected_and_what_was_found(
    claims: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    said = said_of(OURS.token("ann", **claims), caplog)
    assert re.sub(r"(9[89]|10[0-2]) seconds", "100 seconds", said) == reason


def test_a_claim_that_is_nested_however_deeply_is_refused_and_does_no_harm() -> None:
    for depth in range(800, 1100, 10):
        said = part(OURS.claims("ann", aud="AUD")).encode()
        body = base64.urlsafe_b64decode(said + b"==").replace(b'"AUD"', b"[" * depth + b"]" * depth)
        refused(str(jws.sign(body, OURS.secret_pem, algorithm="RS256")))


def test_everything_that_is_wrong_with_a_token_is_said_at_once(caplog: pytest.LogCaptureFixture) -> None:
    said = said_of(OURS.token("ann", iss="x", aud="y", exp=1), caplog)
    assert [each.split(":")[0] for each in said.split("; ")] == ["iss", "aud", "exp"]


def test_the_log_says_by_which_key_and_algorithm_a_token_is_signed(caplog: pytest.LogCaptureFixture) -> None:
    keys = callers(KeySet(published(OURS), []))
    other = Issuer("second", name="https://other.example/")
    assert said_of(other.token("ann"), caplog, keys) == (
        'key: a token signed with the key "second" fits none of the 1 keys of the issuer ("first"); '
        'it says that its issuer is "https://other.example/"'
    )
    assert said_of(Issuer("first").token("ann"), caplog, keys).startswith('key: a token signed with the key "first"')
    pss = signed("PS256", kid="first")
    assert said_of(pss, caplog, keys) == 'alg: it is signed with "PS256", and taken are RS256, ES256, EdDSA'
    assert said_of(OURS.unsigned("ann") + "x", caplog, keys).startswith('alg: it is signed with "none"')
    assert said_of(OURS.unsigned("ann"), caplog, keys).startswith("form: ")
    assert said_of(OURS.token("ann", headers={"crit": ["b64"]}), caplog, keys).startswith("form: ")


def test_the_log_says_why_what_is_no_jwt_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    key, line = new_key("ci", ["runs:read"], None, "2020-01-01")
    keys = Callers(keys=Keys(lambda: line, credential=CREDENTIAL))
    tokens = Callers(tokens=UpstreamTokens(Host().identify, "fake"))
    assert said_of("sk-1", caplog) == "kind: it is neither a JWT nor a key, which CODEGEN_AUTH does not take"
    assert said_of(key, caplog) == "kind: it is a key of a gateway, which CODEGEN_AUTH does not take"
    assert said_of(OURS.token("ann"), caplog, keys) == "kind: it is a JWT, which CODEGEN_AUTH does not take"
    assert said_of(key, caplog, keys) == "exp: ci has expired"
    assert said_of(f"{key}x", caplog, keys) == "list: it is none of the 1 keys in the list"
    assert said_of("bad", caplog, tokens) == "host: it does not accept this token"
    assert said_of("two words", caplog).startswith("form: ")
    assert said_of("", caplog).startswith("form: ")


def test_a_good_token_that_opens_nothing_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert not run(callers().authenticate(OURS.token("ann", scope="openid", scp=["x"]))).scopes
    said = 'a good token opens nothing, as it names none of our scopes: scope="openid", scp=["x"]'
    assert [record.getMessage() for record in caplog.records] == [said]


@pytest.mark.wire("auth-token-length")
@pytest.mark.parametrize("groups", [145, 146, 200, 600])
def test_a_token_with_hundreds_of_groups_is_taken(groups: int) -> None:
    ids = [f"{number:08x}-9c7d-4c4e-8a57-3f1e5a7d2c11" for number in range(groups)]
    token = OURS.token("ann", groups=ids)
    assert run(callers().authenticate(token)).principal.user == "ann"


@pytest.mark.wire("auth-token-length")
def test_a_token_that_is_longer_than_any_that_is_taken_is_refused_by_name(caplog: pytest.LogCaptureFixture) -> None:
    token = OURS.token("ann", more="x" * 30_000)
    assert len(token) > LONGEST_TOKEN
    assert said_of(token, caplog) == f"length: it has {len(token)} characters, and {LONGEST_TOKEN} are taken"
    with pytest.raises(TokenTooLong, match=str(LONGEST_TOKEN)):
        run(callers().authenticate("x" * (LONGEST_TOKEN + 1)))
    with pytest.raises(InvalidToken):
        run(callers().authenticate("x" * LONGEST_TOKEN))


def test_a_flood_of_bad_tokens_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        known = callers()
        for number in range(500):
            for token in (f"bad-{number}", OURS.unsigned(f"{number}"), ""):
                with pytest.raises(InvalidToken):
                    await known.authenticate(token)

    with caplog.at_level(logging.INFO):
        run(main())
    assert len(caplog.records) <= 30


# -- keys that cannot be had ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"keys": [edwards(kid=str(n)) for n in range(5)]}, "5 keys, none of use with RS256: kty="),
        ({"keys": [{"kty": "RSA", "alg": "RS512"}]}, '1 keys, none of use with RS256: kty="RSA" alg="RS512"'),
        ({"keys": [7, {}]}, "2 keys, none of use with RS256: what is no key; a key that does not say its kind"),
        ({"keys": []}, "0 keys, none of use with RS256: it is empty"),
        ({"issuer": ISSUER}, 'what came is no key set: it has no list of "keys"'),
        ([], 'what came is no key set: it has no list of "keys"'),
        (UpstreamUnreachable(reason="GET https://issuer.example/keys: x"), "GET https://issuer.example/keys: x"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_the_log_says_what_is_wrong_with_the_keys_of_an_issuer(
    answer: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        source = KeySet(Publisher(answer), ["RS256"])
        source.open()
        await asyncio.sleep(1)  # before anybody has come
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert source.observation is not None
        assert not source.observation.reachable
        with pytest.raises(AuthUnavailable):
            await verifier(source).authenticate(OURS.token("ann"))
        await source.aclose()

    with caplog.at_level(logging.INFO):
        run(main())
    assert f"the issuer's keys cannot be had: {said}" in caplog.text


def test_the_same_trouble_is_said_now_and_then_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        publisher = Publisher({"keys": []})
        source = KeySet(publisher, [])
        for _ in range(60):
            with pytest.raises(GatewayError):
                await verifier(source).authenticate(OURS.token("ann"))
            await asyncio.sleep(2 * FRESH_SECONDS / 60)
        publisher.answers = published(OURS).answers
        await asyncio.sleep(20)
        await verifier(source).authenticate(OURS.token("ann"))

    with caplog.at_level(logging.INFO):
        run(main())
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "cannot be had" in line]) in (2, 3)
    assert lines[-1] == 'the issuer\'s keys are there: the 1 keys of the issuer ("first")'


@pytest.mark.wire("auth-jwt-keys")
async def test_keys_without_names_are_tried_for_any_and_new_ones_are_taken() -> None:
    def nameless(issuer: Issuer) -> dict[str, Any]:
        return {name: value for name, value in issuer.jwks["keys"][0].items() if name != "kid"}

    publisher = Publisher({"keys": [nameless(OURS)]})
    jwts = verifier(KeySet(publisher, []))
    for _ in range(20):
        await jwts.authenticate(OURS.token("ann"))
        await asyncio.sleep(12)
    assert len(publisher.asked) == 1  # a good token is no reason to ask again
    fresh = Issuer("fresh")
    publisher.answers = [{"keys": [nameless(fresh)]}]
    assert (await jwts.authenticate(fresh.token("ann"))).principal.user == "ann"
    assert len(publisher.asked) == 2
    for _ in range(20):
        with pytest.raises(InvalidToken):
            await jwts.authenticate(OURS.token("ann"))
    assert len(publisher.asked) == 2


def test_a_weak_curve_is_no_key() -> None:
    weak = ec.generate_private_key(ec.SECP256K1()).public_key()
    pem = weak.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    with pytest.raises(ValueError, match="none of the algorithms"):
        FixedKey(pem, [])
