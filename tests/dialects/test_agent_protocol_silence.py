"""An agent that says nothing for long, and clients with the time-outs that they have by default."""

import json

import pytest

from tests.dialects.sdk import speaking
from tests.dialects.site import AUTHORIZED, Connection
from tests.leaks import WATCH

TYPED = {**AUTHORIZED, "Content-Type": "application/json"}


@pytest.mark.parametrize(("path", "sign"), [("stream", b"\n: heartbeat\n"), ("wait", b"\n")])
async def test_an_agent_that_is_silent_is_heard_of_however_seldom_other_streams_are(path: str, sign: bytes) -> None:
    """httpx gives up after five seconds; the gateway's other streams are silent for fifteen, or what is set."""

    async with speaking(stream_heartbeat_seconds=3600) as site:
        said = {"role": "user", "content": "Take all the time you need"}
        WATCH.secret("a prompt", said["content"])
        body = json.dumps({"assistant_id": "agent", "input": {"messages": [said]}}).encode()
        asking = Connection(site.app, f"/runs/{path}", TYPED, "POST", body)
        await asking.received(1)
        while sign not in asking.body:
            await asking.received(len(asking.messages) + 1)
        (hosted,) = site.host.runs.values()
        hosted.append(type="ANSWER", text="There it is.")
        hosted.status = "COMPLETE"
        await asking.task
        assert b"There it is." in asking.body


@pytest.mark.parametrize(("path", "last"), [("stream", b": unfinished, go on behind the last id\n"), ("wait", b"")])
async def test_what_the_gateway_breaks_off_is_not_taken_for_the_whole(path: str, last: bytes) -> None:
    async with speaking(stream_max_age_seconds=0.5) as site:
        said = {"role": "user", "content": "Take all the time you need"}
        WATCH.secret("a prompt", said["content"])
        body = json.dumps({"assistant_id": "agent", "input": {"messages": [said]}}).encode()
        asking = Connection(site.app, f"/runs/{path}", TYPED, "POST", body)
        await asking.task
        assert asking.body.endswith(last)
        assert asking.transport.aborted
        assert not asking.complete
