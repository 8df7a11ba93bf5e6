import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api.auth.keys import RELOAD_SECONDS, KeyEntry, Keys, looks_like_key, new_key, parse_list
from codegen_api.errors import InvalidToken
from codegen_api.identity import SCOPES, Caller, Credential, Principal
from tests.leaks import WATCH
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

CREDENTIAL = Credential.of("host-token", b"key")
READ = ["runs:read"]
ZEROS = "digest=sha256:" + "0" * 64
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True).filter(str.isascii)


class File:
    """A list that changes."""

    def __init__(self, text: str) -> None:
        self.text: str | Exception = text
        self.reads = 0

    def __call__(self) -> str:
        self.reads += 1
        if isinstance(self.text, Exception):
            raise self.text
        return self.text


def keys(read: Callable[[], str], **more: Any) -> Keys:
    return Keys(read, credential=CREDENTIAL, **more)


@pytest.mark.wire("auth-keys")
async def test_a_key_says_who_it_is_and_what_it_may_do() -> None:
    key, line = new_key("nightly", ["runs:read", "runs:write:all"], "323", "2999-01-01T02:00:00+02:00")
    other, second = new_key("ci", READ)
    for text in (f"{line}\n{second}", f"{second};{line}", f"# all\n\n  {second}  # one\r\n{line}\n"):
        each = keys(partial(str, text))
        assert await each.authenticate(key) == Caller(
            Principal("key", "nightly"),
            CREDENTIAL,
            key,
            scopes=frozenset({"runs:read", "runs:write:all"}),
            shared=True,
            organization="323",
            expires=32472144000.0,
        )
        caller = await each.authenticate(other)
        assert (caller.principal.user, caller.organization, caller.expires) == ("ci", None, None)


@pytest.mark.wire("auth-keys")
async def test_what_is_not_in_the_list_is_not_good() -> None:
    key, line = new_key("ci", READ)
    each = keys(lambda: line)
    stranger, _ = new_key("ci", READ)
    for text in (
        stranger,
        key[:-1],
        key + "x",
        key.upper(),
        line.partition("sha256:")[2][:64],
        "",
        "cgk_",
        "cgk_é",
    ):
        with pytest.raises(InvalidToken):
            await each.authenticate(text)
    with pytest.raises(InvalidToken):
        await keys(lambda: "").authenticate(key)


async def test_every_line_is_compared_whichever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [new_key(f"k{number}", READ) for number in range(5)]
    each = keys(lambda: "\n".join(line for _, line in made))
    compare, compared = hmac.compare_digest, 0

    def counting(one: str, other: str) -> bool:
        nonlocal compared
        compared += 1
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    for key, _ in made:
        compared = 0
        await each.authenticate(key)
        assert compared == 5


@pytest.mark.wire("auth-keys")
async def test_a_key_is_good_until_it_expires() -> None:
    key, line = new_key("ci", READ, expires="2026-12-01")
    now = 1796083199.0  # a second before that
    each = keys(lambda: line, clock=lambda: now)
    caller = await each.authenticate(key)
    caller.confirm()
    now += 1
    for ask in (lambda: each.authenticate(key), lambda: confirmed(caller)):
        with pytest.raises(InvalidToken, match="expired"):
            await ask()


async def confirmed(caller: Caller) -> None:
    caller.confirm()


@pytest.mark.wire("auth-keys")
async def test_a_line_that_is_taken_out_ends_its_key_and_one_that_is_put_in_begins_it() -> None:
    (key, line), (other, second) = new_key("ci", READ), new_key("ci", ["runs:write"])
    file = File(line)
    each = keys(file)
    caller = await each.authenticate(key)
    file.text = second
    await asyncio.sleep(RELOAD_SECONDS)
    with pytest.raises(InvalidToken):
        caller.confirm()
    with pytest.raises(InvalidToken):
        await each.authenticate(key)
    assert (await each.authenticate(other)).principal == caller.principal
    file.text = f"{second}\n{line.replace('runs:read', 'runs:write')}"
    await asyncio.sleep(RELOAD_SECONDS)
    with pytest.raises(InvalidToken):
        caller.confirm()  # what it was allowed, it is not any longer
    assert (await each.authenticate(key)).scopes == {"runs:write"}


async def test_the_list_is_looked_at_once_a_second_at_most() -> None:
    key, line = new_key("ci", READ)
    file = File(line)
    each = keys(file)
    for _ in range(50):
        (await each.authenticate(key)).confirm()
        await asyncio.sleep(0.1)
    assert file.reads <= 7


def test_a_list_that_cannot_be_read_now_stays_as_it_was_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        key, line = new_key("ci", READ)
        file = File(line)
        each = keys(file)
        for trouble in (OSError("gone"), f"{line} scope=x", UnicodeDecodeError("utf-8", b"", 0, 1, "x")):
            file.text = trouble
            for _ in range(5):
                await asyncio.sleep(RELOAD_SECONDS)
                await each.authenticate(key)
        file.text = ""
        await asyncio.sleep(RELOAD_SECONDS)
        with pytest.raises(InvalidToken):
            await each.authenticate(key)
        assert line.partition("sha256:")[2][:64] not in caplog.text

    with caplog.at_level(logging.WARNING):
        run(main())
    assert caplog.text.count("stays as it was") == 3
    assert "line 1: " in caplog.text


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("", "a name is"),
        ("-ci", "a name is"),
        ("ci\N{LATIN SMALL LETTER E WITH ACUTE}", "a name is"),
        ("x" * 65, "a name is"),
        (f"ci {ZEROS}", "scopes="),
        (f"ci {ZEROS} scopes=", "scopes="),
        (f"ci {ZEROS} scopes=runs:all", "scopes="),
        (f"ci {ZEROS} scopes=runs:read,", "scopes="),
        ("ci scopes=runs:read", "digest="),
        ("ci digest=sha256:00 scopes=runs:read", "digest="),
        (f"ci {ZEROS.replace('sha256', 'md5')} scopes=runs:read", "digest="),
        (f"ci {ZEROS} scopes=runs:read color=red", "the name is followed by"),
        (f"ci {ZEROS} scopes=runs:read and more", "the name is followed by"),
        (f"ci {ZEROS} scopes=runs:read scopes=runs:write", "the name is followed by"),
        (f"ci {ZEROS} scopes=runs:read organization=", "organization="),
        (f"ci {ZEROS} scopes=runs:read expires=tomorrow", "expires="),
        (f"ci {ZEROS} scopes=runs:read expires=2027-01-01T08:00:00", "expires="),
        (f"ci {ZEROS} scopes=runs:read expires=", "expires="),
    ],
)
def test_a_line_that_makes_no_sense_is_refused_and_named(line: str, what: str) -> None:
    if not line:
        for name in ("", "#ci", "a;b", "a b", "a\nb", f"a {ZEROS}"):
            with pytest.raises(ValueError, match=r"\w"):
                new_key(name, READ)
        for organization in ("3#2", "3;b", "3\n2"):  # behind a # also the end of the key would be gone
            with pytest.raises(ValueError, match="something else in the list"):
                new_key("a", READ, organization, "2027-01-01")
        return
    with pytest.raises(ValueError, match=f"line 3: .*{what}") as raised:
        parse_list(f"# one\n\n{line}")
    assert "0" * 64 not in str(raised.value)


def test_a_key_stands_in_the_list_once() -> None:
    _, line = new_key("ci", READ)
    with pytest.raises(ValueError, match="line 2: this key is in the list already"):
        parse_list(f"{line};{line.replace('ci ', 'other ')}")


@given(
    NAMES,
    st.sets(st.sampled_from(sorted(SCOPES)), min_size=1),
    st.none() | st.from_regex(r"[0-9]{1,18}", fullmatch=True),
)
def test_a_new_line_says_what_was_asked_for(name: str, scopes: set[str], organization: str | None) -> None:
    key, line = new_key(name, sorted(scopes), organization)
    WATCH.secret("a key", key)
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert parse_list(line) == (KeyEntry(name, digest, frozenset(scopes), organization),)
    assert looks_like_key(key)
    assert key not in line


@given(st.text(max_size=200))
def test_any_text_is_a_list_or_is_refused(text: str) -> None:
    for whole in (text, f"ci {ZEROS} {text}", f"ci {ZEROS} scopes=runs:read expires={text}"):
        try:
            found: Any = parse_list(whole)
        except ValueError as error:
            found = str(error)
        assert isinstance(found, tuple) or found.startswith("line ")
