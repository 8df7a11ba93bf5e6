"""What takes long is done beside the event loop, one thing at a time, and whatever is done on it is bounded."""

import asyncio
import json
import threading
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest

from codegen_api import dialects, outbound
from codegen_api import worker_thread as beside
from codegen_api.dialects import MAX_EXAMINED, is_blank
from codegen_api.errors import Rejected
from codegen_api.following.rights import Rights
from codegen_api.http import request_bodies
from codegen_api.identity import Credential
from codegen_api.runs import MOST_DIGITS, Json, Run, RunRef, RunStatus
from codegen_api.stores.sql import tables
from codegen_api.worker_thread import LARGE, encoded, in_thread, is_large
from tests.dialects.site import serving
from tests.stores.things import ME, conversation, opened, turn

IMAGE = "data:image/png;base64," + "A" * 6 * LARGE
MESSAGES = ({"id": "m", "content": [{"type": "image", "url": IMAGE}]},)


class Threads:
    """In which threads a function was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: object, name: str) -> None:
        self.names: list[str] = []
        call: Callable[..., Any] = getattr(where, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            self.names.append(threading.current_thread().name)
            return call(*args, **kwargs)

        monkeypatch.setattr(where, name, noted)

    @property
    def beside(self) -> list[bool]:
        return [name.startswith("worker_thread") for name in self.names]


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}])
async def test_a_create_with_an_image_of_several_mib_is_read_and_written_beside_the_loop(
    headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, written = Threads(monkeypatch, request_bodies, "_read"), Threads(monkeypatch, beside, "to_json")

    async with serving(org_id="9") as site:
        body: dict[str, Any] = {"prompt": "What is this?", "images": [IMAGE]}
        assert (await site.ask("POST", "/agent-runs", json=body, headers=headers)).status_code == 201
        assert read.beside == [True]
        assert True in written.beside or not headers  # the host of this site takes no bytes
        assert (await site.ask("POST", "/agent-runs", json={"prompt": "Hello"})).status_code == 201
        assert read.beside == [True, False]


async def test_one_thing_is_done_at_a_time() -> None:
    under_way: list[int] = []
    most = 0

    def work(number: int) -> int:
        nonlocal most
        under_way.append(number)
        most = max(most, len(under_way))
        under_way.remove(number)
        return threading.get_ident()

    threads = await asyncio.gather(*(in_thread(work, number) for number in range(50)))
    assert set(threads) != {threading.get_ident()}
    assert (len(set(threads)), most) == (1, 1)


@pytest.mark.parametrize(
    ("value", "large"),
    [
        ("x" * LARGE, False),
        ("x" * (LARGE + 1), True),
        ([{"a": ["x" * (LARGE // 2)] * 3}], True),
        ({"a": "x", "b": None, "c": 1}, False),
        ([0] * LARGE, True),
        ({str(number): 0 for number in range(LARGE // 8)}, False),
    ],
)
def test_what_is_large_is_told_from_its_texts_and_the_number_of_its_values(value: Any, large: bool) -> None:
    assert is_large(value) == large
    assert asyncio.run(encoded(value)) == json.dumps(value, separators=(",", ":")).encode()


@pytest.mark.parametrize("unseen", [" ", "\u200b", "\x7f", "\n\u00ad", "\U000e0041"])
def test_of_a_prompt_that_shows_nothing_a_part_is_looked_at(unseen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = Threads(monkeypatch, unicodedata, "category")
    monkeypatch.setattr(dialects, "unicodedata", unicodedata)
    assert is_blank(unseen * 10 * MAX_EXAMINED)
    assert len(looked.names) <= MAX_EXAMINED
    assert not is_blank(" " * 10 * MAX_EXAMINED + unseen * (MAX_EXAMINED // 4) + "x")


def test_a_number_that_takes_long_is_refused_by_name_and_a_text_where_the_host_says_it() -> None:
    digits = "1" * (MOST_DIGITS + 1)

    assert request_bodies._read(f'{{"n":{digits[1:]}}}'.encode()) == {"n": int(digits[1:])}
    for sign in ("", "-"):
        with pytest.raises(Rejected) as refused:
            request_bodies._read(f'{{"n":{sign}{digits}}}'.encode())
        assert refused.value.message == f"the body: a whole number may have {MOST_DIGITS} digits."
    for around in ("[%s]", "[%s," + '"%s"]' % ("x" * LARGE)):  # the second is read beside the loop
        said = bytearray((around % digits).encode())
        read: Any = asyncio.run(outbound._decode(said))[0]
        assert read[0] == digits


async def test_a_turn_with_an_image_is_written_and_read_beside_the_loop(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed, plain = Threads(monkeypatch, tables, "_parsed"), Threads(monkeypatch, tables, "_plain")

    async with opened(f"sqlite:///{tmp_path}/kept") as store:
        await store.add_conversation(ME, conversation("c"))
        kept = await store.add_turn(ME, turn("t", conversation="c", messages=MESSAGES))
        assert await store.turn(ME, "t") == kept
        assert await store.turns(ME, "c") == (kept,)
    assert plain.beside == [False, True]
    assert parsed.beside == [True, True]


# -- rights -----------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_the_rights_that_are_held_are_bounded_in_bytes() -> None:
    asked = 0

    async def get(_: Credential, ref: RunRef) -> Run:
        nonlocal asked
        asked += 1
        metadata: Json = {"long": "x" * (10**7 if ref.id == "huge" else 10**5), "list": [1, "two", {"three": None}]}
        return Run(ref, RunStatus.RUNNING, "ACTIVE", {"metadata": metadata})

    rights, credential = Rights(get, at_most=10**6), Credential("secret", "digest")
    for number in range(100):
        right = await rights.require(credential, RunRef("9", str(number)))
        assert rights.held(credential, right.run.ref) is right
        assert rights._held.currsize <= 10**6
    assert 5 < len(rights._held) < 10
    assert rights.held(credential, RunRef("9", "0")) is None
    huge = RunRef("9", "huge")
    assert (await rights.require(credential, huge)).run.ref == huge  # which is a right, and none that is held
    rights.renew(credential, huge)
    assert rights.held(credential, huge) is None
    await rights.require(credential, RunRef("9", "99"))
    assert asked == 101
    await rights.aclose()
