"""What somebody else has in the Agent Protocol is not there, also where a run is begun. Every route that takes an id is
asked in ``test_conversation_strangers.py``.
"""

from typing import Any
from urllib.parse import quote

import pytest

from tests.dialects.sdk import client_of, speaking

THEIRS, MISSING = "theirs", "nowhere"
BODY: dict[str, Any] = {"input": {"messages": [{"role": "user", "content": "Go on with it"}]}}


async def test_a_thread_under_the_same_id_is_the_callers_own() -> None:
    async with speaking() as site, client_of(site) as client, client_of(site, "bob") as other:
        mine = await client.threads.create(thread_id=THEIRS, metadata={"whose": "alice"})
        given = {"input": {"messages": [{"role": "user", "content": "Tell me of it"}]}}
        made = await other.runs.create(THEIRS, "agent", **given)
        assert made["thread_id"] == THEIRS
        assert await client.runs.list(THEIRS) == []
        assert await client.threads.get(THEIRS) == mine
        (theirs,) = await other.threads.search(metadata={"assistant_id": made["assistant_id"]})
        assert theirs["metadata"]["thread_name"] == "Tell me of it"
        await client.threads.delete(THEIRS)
        assert (await other.threads.get(THEIRS))["status"] == "busy"


async def test_an_assistant_of_somebody_else_answers_nobody() -> None:
    async with speaking() as site, client_of(site) as client:
        await client.assistants.create("agent", assistant_id=THEIRS)
        told = set()
        for id in (THEIRS, MISSING):  # noqa: A001
            body = {**BODY, "assistant_id": id}
            for path in ("/threads/t/runs", "/runs", "/runs/wait", "/runs/stream"):
                answer = await site.post(path, body, token="bob")
                told.add((answer.status_code, answer.json()["message"].replace(id, "x")))
        assert told == {(404, "Assistant 'x' not found")}
        assert site.host.runs == {}


@pytest.mark.parametrize(
    ("id", "quoted"),
    [
        ("somewhere", True),
        ("Gespr\u00e4ch 1: 2", True),
        ("x" * 255, True),
        ("x" * 256, False),
        ("y" * 10_000, False),
        ("<img src=x>", False),
        ("it's", False),
        ('a "b"', False),
        ("a\u2028b", False),
        ("a\nb", False),
        ("a\u202eb", False),
    ],
)
async def test_what_is_not_there_is_said_in_the_words_that_clients_look_for(id: str, quoted: bool) -> None:  # noqa: A002
    async with speaking() as site:
        place = quote(id, safe="")
        asked = {
            "Thread": await site.get(f"/threads/{place}/state"),
            "Assistant": await site.get(f"/assistants/{place}"),
            "Run": await site.get(f"/threads/t/runs/{place}"),
        }
        for kind, answer in asked.items():
            named = f"{kind} '{id}' not found" if quoted else f"{kind} not found"
            told = answer.json()
            assert (answer.status_code, told["error"], told["code"]) == (404, "not_found", "not_found")
            assert told["message"] == told["detail"] == named
