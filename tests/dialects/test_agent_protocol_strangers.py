"""What somebody else has in the Agent Protocol is not there, also where a run is begun. Every route that takes an id is
asked in ``test_conversation_strangers.py``.
"""

from typing import Any

from tests.dialects.sdk import client_of, speaking
from tests.dialects.site import run

THEIRS, MISSING = "theirs", "nowhere"
BODY: dict[str, Any] = {"input": {"messages": [{"role": "user", "content": "Go on with it"}]}}


def test_a_thread_under_the_same_id_is_the_callers_own() -> None:
    async def main() -> None:
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

    run(main())


def test_an_assistant_of_somebody_else_answers_nobody() -> None:
    async def main() -> None:
        async with speaking() as site, client_of(site) as client:
            await client.assistants.create("agent", assistant_id=THEIRS)
            told = []
            for id in (THEIRS, MISSING):  # noqa: A001
                body = {**BODY, "assistant_id": id}
                for path in ("/threads/t/runs", "/runs", "/runs/wait", "/runs/stream"):
                    answer = await site.post(path, body, token="bob")
                    told.append((answer.status_code, answer.json()["message"]))
            assert set(told) == {(404, "There is no such assistant.")}
            assert site.host.runs == {}

    run(main())
