import base64
import json
import string
from contextlib import suppress

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import example, given
from hypothesis import strategies as st

from codegen_api.auth.tickets import MAX_LENGTH, Ticket, Tickets
from codegen_api.errors import InvalidTicket, TokenTooLong
from codegen_api.identity import Caller, Credential, Principal
from codegen_api.runs import RunRef

NOW = 1_800_000_000.25
OLD, NEW = "an old key of many characters....", "a new key of many characters....."
RUN = RunRef("323", "12345")
ALICE = Caller(Principal("codegen", "7"), Credential.of("sk-alice", b"key"), "sk-alice")
TICKETS = Tickets([NEW], 600)


def sealed(tickets: Tickets = TICKETS, caller: Caller = ALICE) -> str:
    return tickets.seal(RUN, caller, NOW)[0]


def unpacked(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def refused(text: str, tickets: Tickets = TICKETS, now: float = NOW) -> bool:
    try:
        tickets.open(text, now)
    except InvalidTicket as error:
        return error.__cause__ is None and error.message == InvalidTicket.default_message
    return False


@pytest.mark.wire("ticket-any-instance")
def test_another_instance_with_the_same_key_reads_what_was_sealed() -> None:
    text, expires = TICKETS.seal(RUN, ALICE, NOW)
    assert Tickets([NEW], 30).open(text, NOW) == Ticket(RUN, ALICE.principal, expires, "sk-alice")


def test_a_ticket_shows_nothing_and_no_two_are_the_same() -> None:
    one, other = sealed(), sealed()
    assert one[:40] != other[:40]
    bare = unpacked(one)
    for secret in (b"sk-alice", b"12345", b"codegen"):
        assert secret not in bare
    assert "sk-alice" not in repr(TICKETS.open(one, NOW))


def test_a_ticket_stands_in_a_url_as_it_is() -> None:
    assert sealed().replace("-", "").replace("_", "").isalnum()
    assert sealed().isascii()


@pytest.mark.wire("ticket-life")
@pytest.mark.parametrize(("stream_seconds", "lifetime"), [(0.5, 3600), (600, 3600), (1770, 3600), (86_400, 172_860)])
def test_a_ticket_lives_an_hour_and_always_longer_than_two_streams(stream_seconds: float, lifetime: float) -> None:
    tickets = Tickets([NEW], stream_seconds)
    text, expires = tickets.seal(RUN, ALICE, NOW)
    assert NOW + lifetime <= expires < NOW + lifetime + 1
    assert expires - NOW > 2 * stream_seconds
    assert tickets.open(text, expires - 0.001).expires == expires
    assert refused(text, tickets, now=expires)


@pytest.mark.wire("ticket-any-instance")
def test_keys_are_changed_without_a_gap() -> None:
    old, both, new = Tickets([OLD], 600), Tickets([NEW, OLD], 600), Tickets([NEW], 600)
    assert both.open(sealed(old), NOW).run == RUN
    assert new.open(sealed(both), NOW).run == RUN
    assert refused(sealed(both), old)
    assert refused(sealed(old), new)


@pytest.mark.wire("ticket-invalid")
@given(data=st.data(), token=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60))
def test_a_ticket_with_any_character_changed_is_refused(data: st.DataObject, token: str) -> None:
    text = sealed(caller=Caller(ALICE.principal, Credential.of(token, b"key"), token))
    assert TICKETS.open(text, NOW).token == token
    at = data.draw(st.integers(0, len(text) - 1) | st.just(len(text) - 1))
    changed = data.draw(st.sampled_from("ABCwxyz019-_") | st.characters())
    tampered = text[:at] + changed + text[at + 1 :]
    assert refused(tampered) == (tampered != text)


@pytest.mark.wire("ticket-invalid")
@pytest.mark.parametrize("token", ["a", "ab", "abc"])  # so that each number of bits is left over at the end
def test_there_is_no_other_text_for_the_same_ticket(token: str) -> None:
    text = sealed(caller=Caller(ALICE.principal, Credential.of(token, b"key"), token))
    letters = string.ascii_letters + string.digits + "-_"
    assert [last for last in letters if not refused(text[:-1] + last)] == [text[-1]]


@pytest.mark.wire("ticket-invalid")
@given(data=st.data())
def test_a_ticket_with_any_bit_flipped_is_refused(data: st.DataObject) -> None:
    text = sealed()
    raw = bytearray(unpacked(text))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert refused(base64.urlsafe_b64encode(raw).rstrip(b"=").decode())


@pytest.mark.wire("ticket-invalid")
@given(data=st.data())
def test_a_ticket_that_was_cut_or_has_something_added_is_refused(data: st.DataObject) -> None:
    text = sealed()
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, len(text)))
    assert refused(text[start:stop]) == (text[start:stop] != text)
    added = data.draw(st.text(min_size=1))
    for longer in (added + text, text + added, text[:start] + added + text[start:]):
        assert refused(longer)


@pytest.mark.wire("ticket-invalid")
@given(st.text() | st.text("abcABC019-_", max_size=200) | st.text(st.characters(max_codepoint=255), max_size=200))
def test_anything_that_never_was_a_ticket_is_refused(text: str) -> None:
    assert refused(text)


@pytest.mark.parametrize("text", ["", "A" * 39, "A" * 40, "A" * 41, "A" * 16_384, "A" * 1_000_000])
def test_no_length_is_too_odd_to_be_refused(text: str) -> None:
    assert refused(text)


@pytest.mark.wire("ticket-length")
@given(st.integers(1, 32_768))
@example(5000)
def test_a_ticket_is_short_enough_for_a_url_or_there_is_none(length: int) -> None:
    token = "x" * length
    caller = Caller(ALICE.principal, Credential.of(token, b"key"), token)
    text = ""
    with suppress(TokenTooLong):
        text = sealed(caller=caller)
    if not text:
        assert length > 5000
        return
    assert len(text) <= MAX_LENGTH
    assert TICKETS.open(text, NOW).token == token


@pytest.mark.wire("ticket-length", "ticket-any-instance")
@pytest.mark.parametrize("user", ["ann", "x" * 255, "\U0001f600" * 255])
def test_a_ticket_for_who_was_vouched_for_holds_what_their_token_said_and_not_the_token(user: str) -> None:
    who = Principal("jwt:https://login.example.com/realms/people", user)
    ann = Caller(who, ALICE.credential, None, scopes=frozenset({"runs:read"}), shared=True, expires=NOW + 99.5)
    text, expires = TICKETS.seal(RUN, ann, NOW)
    assert len(text) <= MAX_LENGTH
    opened = Tickets([NEW], 30).open(text, NOW)
    assert opened == Ticket(RUN, who, expires, None, frozenset({"runs:read"}), NOW + 99.5)
    assert expires == NOW + 99.75  # and not a moment longer than the token, but for whole seconds
    assert refused(text, now=expires)
    assert refused(text, Tickets([OLD], 600))


@pytest.mark.wire("ticket-any-instance")
def test_a_ticket_that_an_earlier_version_gave_is_still_opened() -> None:
    said = json.dumps(["323", "12345", "codegen", "7", "sk-alice", int(NOW) + 60]).encode()
    key = HKDF(SHA256(), 32, salt=None, info=b"codegen_api stream ticket, form 1").derive(NEW.encode())
    text = base64.urlsafe_b64encode(b"n" * 12 + AESGCM(key).encrypt(b"n" * 12, said, None)).rstrip(b"=").decode()
    assert TICKETS.open(text, NOW) == Ticket(RUN, ALICE.principal, int(NOW) + 60, "sk-alice")


def test_the_key_that_seals_is_not_the_text_that_was_given() -> None:
    raw = unpacked(sealed(Tickets(["k" * 32], 600)))
    with pytest.raises(InvalidTag):
        AESGCM(b"k" * 32).decrypt(raw[:12], raw[12:], None)
