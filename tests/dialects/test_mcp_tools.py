"""What the tools do with runs, and what they say of them."""

import asyncio
import json
from typing import Any

import pytest

from codegen_api.dialects.mcp.runs import MOST_CHARACTERS, MOST_ENTRIES
from codegen_api.dialects.mcp.tools import LINE, LONGEST_WAIT
from codegen_api.errors import GatewayError, Unsupported, UpstreamError, UpstreamTimeout
from codegen_api.runs import Paging, WaitReason
from codegen_api.upstreams import Listing, Organization
from tests.dialects.mcp import ABLE, McpClient, called
from tests.dialects.rich import RichHost
from tests.dialects.site import AUTHORIZED, Connection, serving
from tests.fakehost import FakeHost, Sequence

ERAS = pytest.mark.parametrize("capabilities", [None, {}], ids=["handshake", "modern"])


def gateway(host: Any = None, **more: Any) -> Any:
    return serving(host or FakeHost(), dialects=("mcp",), org_id="9", **more)


@ERAS
@pytest.mark.virtual_time
async def test_a_run_is_started_read_told_more_and_stopped(capabilities: Any) -> None:
    async with gateway() as site:
        client = McpClient(site, capabilities)
        started = await client.told("start_run", prompt="Say hello")
        assert started == {"run_id": "1", "status": "ACTIVE", "run_status": "running", "ended": False}
        site.host.runs["1"].append(2)
        assert await client.told("get_run", run_id="1") == {**started, "length": 3}
        assert await client.told("get_run", run_id=1) == {**started, "length": 3}
        log = await client.told("read_log", run_id="1", after=1, limit=1)
        (entry,) = log["entries"]
        assert entry == {"position": 2, "kind": "thought", "at": "0-000002", "text": "note 2"}
        assert (log["next_after"], log["at_end"]) == (2, False)
        resumed = await client.told("resume_run", run_id="1", prompt="Go on")
        assert (resumed["run_status"], site.host.runs["1"].entries[-1]["prompt"]) == ("running", "Go on")
        assert (await client.told("cancel_run", run_id="1"))["run_status"] == "cancelled"
        assert (await client.told("list_runs", status="cancelled"))["runs"][0]["run_id"] == "1"


@pytest.mark.virtual_time
async def test_what_a_run_is_to_have_goes_to_the_host() -> None:
    host = RichHost()
    async with gateway(host) as site:
        await McpClient(site).told("start_run", prompt="Say hello", repo_id=71, model="m")
        (new,) = host.created
        assert (new.prompt, new.repo_id, new.model) == ("Say hello", 71, "m")


@pytest.mark.virtual_time
async def test_an_order_that_is_repeated_with_its_key_is_carried_out_once() -> None:
    async with gateway() as site:
        client = McpClient(site)
        for tool, more in (("start_run", {}), ("run_agent", {"wait_seconds": 1})):
            said = {"prompt": "Say hello", "idempotency_key": tool, **more}
            first, again = await client.told(tool, **said), await client.told(tool, **said)
            assert first["run_id"] == again["run_id"]
            assert "idempotency_key_reused" in await client.refused(tool, **{**said, "prompt": "Say something else"})
        assert len(site.host.runs) == 2
        for _ in range(3):
            await client.told("resume_run", run_id="1", prompt="Go on", idempotency_key="k")
        assert [entry.get("prompt") for entry in site.host.runs["1"].entries].count("Go on") == 1
        assert "invalid_idempotency_key" in await client.refused("start_run", prompt="x", idempotency_key="\n")


@pytest.mark.virtual_time
async def test_runs_are_listed_in_portions() -> None:
    async with gateway() as site:
        for number in range(1, 6):
            site.host.add(str(number), status="COMPLETE" if number % 2 else "ACTIVE")
        client = McpClient(site)
        first = await client.told("list_runs", limit=2)
        assert [run["run_id"] for run in first["runs"]] == ["5", "4"]
        rest = await client.told("list_runs", skip=first["next_skip"])
        assert ([run["run_id"] for run in rest["runs"]], rest["next_skip"]) == (["3", "2", "1"], None)
        ended = await client.told("list_runs", status="COMPLETE")
        assert [run["run_id"] for run in ended["runs"]] == ["5", "3", "1"]


# -- following --------------------------------------------------------------------------------------------------------


async def works(site: Any, run_id: str = "1") -> None:
    """An agent that does something every few seconds, and then answers."""
    run = site.host.runs[run_id]
    await asyncio.sleep(3)
    run.append(2)
    await asyncio.sleep(3)
    at = run.act()
    await asyncio.sleep(3)
    run.amend(at, output="42 files")
    await asyncio.sleep(3)
    run.append(type="ANSWER", text="It is done.")
    run.status, run.result = "COMPLETE", None


@ERAS
@pytest.mark.virtual_time
async def test_whoever_follows_gets_every_entry_once_and_the_end(capabilities: Any) -> None:
    async with gateway() as site:
        client = McpClient(site, capabilities)
        run = await client.told("start_run", prompt="Say hello")
        working = asyncio.ensure_future(works(site))
        after, positions, outputs = 0, [], []
        for _ in range(30):
            said = await client.told("follow_run", run_id=run["run_id"], after=after, wait_seconds=5)
            after = said["next_after"]
            positions += [entry["position"] for entry in said["entries"]]
            outputs += [(entry["open"], entry["output"]) for entry in said["entries"] if "tool" in entry]
            if said["ended"]:
                break
        await working
        assert said["answer"] == "It is done."
        # that of the tool comes again with its output, unless it came with it
        assert [position for number, position in enumerate(positions) if position not in positions[:number]] == [
            1, 2, 3, 4, 5,
        ]  # fmt: skip
        assert outputs[-1] == (False, "42 files")
        assert len(outputs) == len(positions) - 4 <= 2
        again = await client.told("follow_run", run_id="1", after=after)
        assert (again["entries"], again["ended"]) == ([], True)


@ERAS
@pytest.mark.virtual_time
async def test_progress_is_told_per_entry_to_who_wants_it(capabilities: Any) -> None:
    async with gateway() as site:
        client = McpClient(site, capabilities)
        await client.told("start_run", prompt="Say hello")
        working = asyncio.ensure_future(works(site))
        notifications, result = await client.watched("follow_run", run_id="1", wait_seconds=50)
        await working
        assert [each["progress"] for each in notifications] == [1, 2, 3, 4, 5]
        assert [each["message"] for each in notifications] == ["Say hello", "note 2", "note 3", "look", "It is done."]
        assert result["structuredContent"]["ended"]
        assert ("resultType" in result) == (capabilities is not None)


@pytest.mark.virtual_time
async def test_a_client_that_takes_no_events_or_wants_no_progress_gets_json() -> None:
    async with gateway() as site:
        site.host.add(status="COMPLETE").append(2)
        params = {"name": "follow_run", "arguments": {"run_id": "1"}}
        for meta, accept in (({"progressToken": 7}, "application/json"), ({}, "application/json, text/event-stream")):
            answer = await McpClient(site).send("tools/call", {**params, "_meta": meta}, Accept=accept)
            assert answer.headers["content-type"] == "application/json"
            assert len(answer.json()["result"]["structuredContent"]["entries"]) == 2


@pytest.mark.virtual_time
async def test_no_tool_waits_longer_than_hosts_do() -> None:
    async with gateway() as site:
        client = McpClient(site)
        await client.told("start_run", prompt="Say hello")
        loop = asyncio.get_running_loop()
        for tool, arguments in (("follow_run", {"run_id": "1"}), ("run_agent", {"prompt": "Say hello"})):
            for given in ({}, {"wait_seconds": LONGEST_WAIT}):
                began = loop.time()
                assert not (await client.told(tool, **arguments, **given))["ended"]
                assert loop.time() - began <= LONGEST_WAIT + 5
            assert "validation_error: wait_seconds" in await client.refused(
                tool, **arguments, wait_seconds=LONGEST_WAIT + 1
            )


@pytest.mark.virtual_time
async def test_following_ends_where_somebody_has_to_act() -> None:
    async with gateway() as site:
        client = McpClient(site)
        run = site.host.add()
        run.append(2)
        for status in ("WAITING", "PAUSED"):
            run.status = status
            said = await client.told("follow_run", run_id="1", wait_seconds=LONGEST_WAIT)
            assert (said["run_status"], len(said["entries"])) == (status.lower(), 2)
            assert asyncio.get_running_loop().time() < LONGEST_WAIT


@pytest.mark.virtual_time
async def test_a_position_behind_the_end_leads_to_the_end() -> None:
    async with gateway() as site:
        site.host.add(status="COMPLETE").append(3)
        said = await McpClient(site).told("follow_run", run_id="1", after=77)
        assert said["ended"]
        assert said["next_after"] == 3


@pytest.mark.virtual_time
async def test_run_agent_waits_for_the_answer() -> None:
    async with gateway() as site:
        client = McpClient(site)
        asking = asyncio.ensure_future(client.watched("run_agent", prompt="Say hello"))
        await asyncio.sleep(1)
        await works(site)
        notifications, result = await asking
        assert (result["structuredContent"]["answer"], len(notifications)) == ("It is done.", 5)
        assert "entries" not in result["structuredContent"]
        assert "isError" not in result


@pytest.mark.virtual_time
async def test_a_run_that_fails_is_a_failure_of_run_agent_and_none_of_who_asks_how_it_is() -> None:
    async with gateway() as site:
        client = McpClient(site)
        asking = asyncio.ensure_future(client.call("run_agent", prompt="Say hello"))
        await asyncio.sleep(1)
        site.host.runs["1"].status = "ERROR"
        result = await asking
        assert (result["isError"], result["structuredContent"]["run_status"]) == (True, "failed")
        for tool in ("get_run", "follow_run", "read_log"):
            assert (await client.told(tool, run_id="1"))["run_status"] == "failed"


# -- what is bounded --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["read_log", "follow_run"])
@pytest.mark.parametrize("size", [1, 700, 9_000, 30_000])
@pytest.mark.virtual_time
async def test_a_result_has_what_fits_and_the_rest_comes_with_the_next(tool: str, size: int) -> None:
    async with gateway() as site:
        run = site.host.add(status="COMPLETE")
        for number in range(150 if size < 9_000 else 12):
            run.append(text=f"{number} " + "\u20ac" * size)
        after = 0
        seen: list[int] = []
        while len(seen) < len(run.entries):
            said = await McpClient(site).told(tool, run_id="1", after=after)
            assert 1 <= len(said["entries"]) <= MOST_ENTRIES
            assert len(json.dumps(said["entries"], ensure_ascii=False)) < MOST_CHARACTERS + 5_000
            assert all(("cut" in entry) == (size == 30_000) for entry in said["entries"])
            seen += [entry["position"] for entry in said["entries"]]
            after = said["next_after"]
        assert seen == [*range(1, len(run.entries) + 1)]
        if tool == "read_log":
            assert said["at_end"]


@pytest.mark.virtual_time
async def test_an_entry_that_is_too_long_says_that_it_was_cut() -> None:
    async with gateway() as site:
        site.host.add(status="COMPLETE", result="a" * 50_000).append(
            type="ACTION", text="b" * 7_000, input={"path": "\0" * 40_000}, output=["c" * 40_000]
        )
        client = McpClient(site)
        (entry,) = (await client.told("read_log", run_id="1"))["entries"]
        assert entry["cut"]
        assert entry["text"].endswith(" more characters)")
        assert len(json.dumps(entry, ensure_ascii=False)) < MOST_CHARACTERS
        answer = (await client.told("get_run", run_id="1"))["answer"]
        assert answer == "a" * MOST_CHARACTERS + "... (30000 more characters)"


@pytest.mark.virtual_time
async def test_tools_that_have_answered_late_do_not_keep_anybody_from_going_on() -> None:
    async with gateway() as site:
        run = site.host.add()
        for _ in range(30):
            run.append(type="ACTION", output="x" * 3_000)
        after: Any = 0
        seen: list[int] = []
        for _ in range(20):
            said = await McpClient(site).told("follow_run", run_id="1", after=after, wait_seconds=1)
            seen += [entry["position"] for entry in said["entries"]]
            after = said["next_after"]
        assert seen == [*range(1, 31)]


@pytest.mark.virtual_time
async def test_a_notification_is_one_short_line() -> None:
    async with gateway() as site:
        site.host.add(status="COMPLETE").append(text="a\n\n  b\u2028" + "c" * 3_000)
        ((told,), _) = await McpClient(site).watched("follow_run", run_id="1")
        assert told["message"].startswith("a b c")
        assert len(told["message"]) < LINE + 40


# -- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("start_run", {}, "validation_error: prompt: field required."),
        ("start_run", {"prompt": "\u200b "}, "validation_error: prompt: must not be empty."),
        ("start_run", {"prompt": 7}, "validation_error: prompt: "),
        ("start_run", {"prompt": "x", "wait": 7}, "validation_error: wait: extra inputs are not permitted."),
        ("get_run", {"run_id": "999"}, "not_found: "),
        ("get_run", {"run_id": "x"}, "validation_error: "),
        ("get_run", {"run_id": ""}, "validation_error: run_id: "),
        ("read_log", {"run_id": "1", "after": -1}, "validation_error: after: must be a position"),
        ("read_log", {"run_id": "1", "after": "x"}, "validation_error: after: must be a position"),
        ("read_log", {"run_id": "1", "limit": MOST_ENTRIES + 1}, "validation_error: limit: "),
        ("follow_run", {"run_id": "1", "after": "1.x"}, "validation_error: after: must be a position"),
        ("follow_run", {"run_id": "999"}, "not_found: "),
        ("resume_run", {"run_id": "1"}, "validation_error: prompt: must not be empty."),
        ("resume_run", {"run_id": "1", "request_id": "1"}, "validation_error: prompt: must not be empty."),
        ("resume_run", {"run_id": "1", "request_id": "7", "decision": "approve"}, "not_found: "),
        ("resume_run", {"run_id": "1", "decision": "perhaps"}, "validation_error: decision: "),
        ("cancel_run", {"run_id": "2"}, "run_ended: "),
        ("list_runs", {"limit": 0}, "validation_error: limit: "),
    ],
)
@ERAS
@pytest.mark.virtual_time
async def test_what_cannot_be_is_said_to_the_model(capabilities: Any, tool: str, arguments: Any, said: str) -> None:
    async with gateway() as site:
        site.host.add().append()
        site.host.add("2", status="COMPLETE")
        assert said in await McpClient(site, capabilities).refused(tool, **arguments)


class TwoOrganizations(FakeHost):
    async def organizations(self, credential: Any, skip: int, limit: int) -> Any:
        items = (Organization("8", {"id": 8}), Organization("9", {"id": 9}))[skip:]
        return Listing(items, Paging(2, 1, limit, 1), at_end=True)


@pytest.mark.virtual_time
async def test_what_can_be_chosen_is_told() -> None:
    async with serving(TwoOrganizations(), dialects=("mcp",)) as site:
        words = await McpClient(site).refused("start_run", prompt="Say hello")
        assert words.startswith("organization_required: ")
        assert "8" in words.partition("details")[2]
        await McpClient(site, headers={"X-Organization-ID": "9"}).told("start_run", prompt="Say hello")


@pytest.mark.virtual_time
async def test_whoever_follows_takes_a_place_among_the_viewers() -> None:
    async with gateway(streams_per_caller=1) as site:
        site.host.add()
        client = McpClient(site)
        watching = asyncio.ensure_future(client.told("follow_run", run_id="1"))
        await asyncio.sleep(1)
        result = await client.call("follow_run", run_id="1")
        assert (result["structuredContent"]["code"], result["isError"]) == ("rate_limited", True)
        await watching


@pytest.mark.parametrize(
    ("operation", "error", "tool"),
    [
        ("cancel", Unsupported(), "cancel_run"),
        ("log", UpstreamError(), "read_log"),
        ("get", UpstreamTimeout(retry_after=7), "get_run"),
    ],
)
@ERAS
@pytest.mark.virtual_time
async def test_a_host_that_cannot_or_does_not_answer_is_told_of(
    capabilities: Any, operation: str, error: GatewayError, tool: str
) -> None:
    async with gateway() as site:
        site.host.add()
        site.host.before = Sequence(operation, *[error] * 100)
        client = McpClient(site, capabilities)
        assert await client.refused(tool, run_id="1") == f"{error.code}: {error.message}"
        if operation == "log":
            status, told = await client.error("resources/read", {"uri": "codegen://runs/1/log"})
            assert (status, told["code"], told["data"]["code"]) == (200, -32603, "upstream_error")


# -- what a run waits for ---------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_question_is_answered_with_a_prompt() -> None:
    async with gateway() as site:
        site.host.add().wait("q", WaitReason.QUESTION, text="Which?", choices=("a", "b"))
        client = McpClient(site)
        (waiting,) = (await client.told("get_run", run_id="1"))["waiting_for"]
        assert waiting == {
            "request_id": "q", "reason": "question", "text": "Which?", "tool": None, "input": None,
            "choices": ["a", "b"],
        }  # fmt: skip
        assert (await client.told("resume_run", run_id="1", prompt="a"))["run_status"] == "running"
        ((request, decision),) = site.host.decisions
        assert (request, decision.verdict, decision.text) == ("q", "answer", "a")


@pytest.mark.virtual_time
async def test_nothing_is_approved_or_rejected_by_words_alone() -> None:
    async with gateway() as site:
        run = site.host.add()
        run.wait("p", tool="rm", input={"path": "/"})
        client = McpClient(site)
        assert "request_id" in await client.refused("resume_run", run_id="1", prompt="Yes")
        run.wait("q", WaitReason.QUESTION)
        assert "conflict: " in await client.refused("resume_run", run_id="1", prompt="Yes")
        assert site.host.decisions == []
        await client.told("resume_run", run_id="1", request_id="p", decision="reject", prompt="Not that")
        await client.told("resume_run", run_id="1", request_id="q", prompt="a")
        assert [(name, made.verdict, made.text) for name, made in site.host.decisions] == [
            ("p", "reject", "Not that"), ("q", "answer", "a"),
        ]  # fmt: skip
        run.wait("p2")
        await client.told("resume_run", run_id="1", request_id="p2", decision="approve")
        assert site.host.decisions[-1][1].verdict == "approve"
        run.wait("q2", WaitReason.QUESTION)
        # with a key it would be said twice, if it were repeated after the run had gone on
        assert "conflict: " in await client.refused("resume_run", run_id="1", prompt="a", idempotency_key="k")


@pytest.mark.virtual_time
async def test_where_the_host_does_not_say_what_a_run_waits_for_a_prompt_resumes_it() -> None:
    async with gateway() as site:
        site.host.add(status="WAITING")
        site.host.before = Sequence("pending", *[Unsupported()] * 5)
        client = McpClient(site)
        assert (await client.told("get_run", run_id="1"))["waiting_for"] == [{"reason": None}]
        assert (await client.told("resume_run", run_id="1", prompt="Yes"))["run_status"] == "running"
        assert site.host.runs["1"].entries[-1]["prompt"] == "Yes"


# -- clients that leave, and processes that stop ----------------------------------------------------------------------


def stream(site: Any, tool: str, **arguments: Any) -> Connection:
    body = called(tool, **arguments)
    body["params"]["_meta"] = {"progressToken": "p"}
    headers = {**AUTHORIZED, "Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    return Connection(site.app, "/mcp", headers, "POST", json.dumps(body).encode())


@pytest.mark.parametrize("tool", ["run_agent", "follow_run"])
@pytest.mark.virtual_time
async def test_a_client_that_leaves_stops_watching_and_the_run_goes_on(tool: str) -> None:
    async with gateway() as site:
        if tool == "follow_run":
            site.host.add().append(1)
        arguments = {"run_id": "1"} if tool == "follow_run" else {"prompt": "Say hello"}
        connection = stream(site, tool, **arguments)
        await connection.received(2)
        parts = site.app.state.parts
        assert parts.gateway.viewers == 1
        await connection.left()
        await asyncio.sleep(60)
        assert (parts.gateway.viewers, parts.gateway.runs_followed, parts.gateway._stream_limits.taken) == (0, 0, 0)
        assert site.host.calls["cancel"] == 0
        assert site.host.runs["1"].status == "ACTIVE"


@pytest.mark.virtual_time
async def test_a_client_that_leaves_before_the_run_has_begun_does_not_keep_it_from_beginning() -> None:
    async with gateway() as site:
        connection = stream(site, "run_agent", prompt="Say hello")
        await connection.left()
        assert list(site.host.runs) == ["1"]
        assert site.app.state.parts.gateway.viewers == 0


@pytest.mark.virtual_time
async def test_a_process_that_stops_gives_what_it_has_and_says_where_to_go_on() -> None:
    async with gateway() as site:
        site.host.add().append(3)
        client = McpClient(site)
        plain = asyncio.ensure_future(client.told("follow_run", run_id="1", wait_seconds=50))
        watched = asyncio.ensure_future(client.watched("follow_run", run_id="1", wait_seconds=50))
        await asyncio.sleep(5)
        await site.app.state.parts.gateway.drain(1)
        for said in (await plain, (await watched)[1]["structuredContent"]):
            assert ([entry["position"] for entry in said["entries"]], said["next_after"]) == ([1, 2, 3], 3)
            assert not said["ended"]
        assert "shutting_down: " in await client.refused("follow_run", run_id="1")
        assert asyncio.get_running_loop().time() < 30


@pytest.mark.virtual_time
async def test_another_instance_goes_on_where_one_has_stopped() -> None:
    host = FakeHost()
    async with gateway(host) as one:
        await McpClient(one).told("start_run", prompt="Say hello")
        at = host.runs["1"].act()
        first = await McpClient(one).told("follow_run", run_id="1", wait_seconds=1)
        task = await McpClient(one, ABLE).call("run_agent", prompt="Say more")
    host.runs["1"].amend(at, output="42 files")
    host.runs["1"].append(2)
    for run in host.runs.values():
        run.status = "COMPLETE"
    async with gateway(host) as other:
        rest = await McpClient(other).told("follow_run", run_id="1", after=first["next_after"])
        assert [(entry["position"], entry.get("output")) for entry in rest["entries"]] == [
            (2, "42 files"), (3, None), (4, None),
        ]  # fmt: skip
        done = await McpClient(other, ABLE).result("tasks/get", {"taskId": task["taskId"]})
        assert done["status"] == "completed"


@pytest.mark.virtual_time
async def test_a_call_from_a_client_with_tasks_that_only_reads_is_no_task() -> None:
    async with gateway() as site:
        site.host.add(status="COMPLETE").append(1)
        for tool in ("follow_run", "get_run", "read_log"):
            assert (await McpClient(site, ABLE).call(tool, run_id="1"))["resultType"] == "complete"
