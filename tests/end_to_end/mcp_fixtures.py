"""What MCP's conformance suite expects of a server that it judges, as tools and resources of the gateway's own server.

Its tasks are the gateway's: each is a run of a host in memory, which does what its prompt says.
"""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from codegen_api.dialects.mcp.protocol import (
    INVALID_PARAMS,
    MISSING_CAPABILITY,
    TASKS,
    McpCall,
    Outcome,
    Result,
    RpcError,
    Tool,
    ToolProgress,
)
from codegen_api.dialects.mcp.runs import TASK_METHODS, read_resource
from codegen_api.dialects.mcp.tools import run_agent
from codegen_api.errors import Conflict
from codegen_api.identity import READ, Credential
from codegen_api.runs import Json, Run, RunRef, WaitReason
from codegen_api.upstreams import Decision, NewRun
from tests.fakehost import FakeHost, Hosted

# -- the host ---------------------------------------------------------------------------------------------------------


class FixtureHost(FakeHost):
    """One whose runs do what their prompts say: ``work SECONDS``, ``fail``, ``ask TIMES``, ``greet NAME``."""

    requests_per_minute = None

    def __init__(self) -> None:
        super().__init__()
        self.latency = 0.001
        self._at_work: set[asyncio.Task[None]] = set()

    async def create_run(self, credential: Credential, organization: str, new: NewRun) -> Run:
        run = await super().create_run(credential, organization, new)
        hosted = self.runs[run.ref.id]
        word, _, rest = new.prompt.partition(" ")
        if word == "ask":
            for number in range(int(rest.split()[0])):
                hosted.wait(str(number), WaitReason.QUESTION, text=f"Question {number}?")
        else:
            task = asyncio.create_task(self._play(hosted, word, rest))
            self._at_work.add(task)
            task.add_done_callback(self._at_work.discard)
        return self._run(hosted)

    async def decide(self, credential: Credential, ref: RunRef, request_id: str, decision: Decision) -> None:
        await super().decide(credential, ref, request_id, decision)
        if not self.runs[ref.id].pending:
            _end(self.runs[ref.id], "Thank you.")

    async def _play(self, hosted: Hosted, word: str, rest: str) -> None:
        await asyncio.sleep(float(rest.split(maxsplit=1)[0]) if word == "work" else 0.1)
        if hosted.status == "ACTIVE":
            _end(hosted, f"Hello, {rest}!", "ERROR" if word == "fail" else "COMPLETE")


def _end(hosted: Hosted, text: str, status: str = "COMPLETE") -> None:
    hosted.append(type="ANSWER", text=text)
    hosted.result, hosted.status = text, status


# -- tools ------------------------------------------------------------------------------------------------------------

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
SILENCE = "UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA="
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": {"$anchor": "addressDef", "type": "object", "properties": {"street": {"type": "string"}}}},
    "properties": {"name": {"type": "string"}, "address": {"$ref": "#/$defs/address"}},
    "allOf": [{"anyOf": [{"required": ["name"]}, {"required": ["address"]}]}],
    "if": {"required": ["name"]},
    "then": {"required": ["name"]},
    "else": {"required": ["address"]},
    "additionalProperties": False,
}


def text(said: str) -> dict[str, Json]:
    return {"type": "text", "text": said}


def embedded(uri: str, media_type: str, said: str) -> dict[str, Json]:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": media_type, "text": said}}


IMAGE: dict[str, Json] = {"type": "image", "data": PIXEL, "mimeType": "image/png"}
CONTENTS: dict[str, list[dict[str, Json]]] = {
    "test_simple_text": [text("This is a simple text response for testing.")],
    "test_image_content": [IMAGE],
    "test_audio_content": [{"type": "audio", "data": SILENCE, "mimeType": "audio/wav"}],
    "test_embedded_resource": [
        embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")
    ],
    "test_multiple_content_types": [
        text("Multiple content types test:"),
        IMAGE,
        embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
    ],
    "test_streaming_elicitation": [text("Done")],
    "test_logging_tool": [text("Done")],
}


@dataclass(frozen=True)
class FixtureTool(Tool):
    """A tool under a name of the suite's. ``schema`` is shown for its arguments, if they have one of their own."""

    called_as: str
    schema: Result | None = None

    @property
    def name(self) -> str:
        return self.called_as

    @cached_property
    def described(self) -> Result:
        shown = {} if self.schema is None else {"inputSchema": self.schema}
        return {**super().described, "description": "For the suite.", **shown}


def tool(name: str, run: Callable[..., Awaitable[Outcome]], schema: Result | None = None) -> Tool:
    return FixtureTool(run, READ, name, schema)


def says(*content: dict[str, Json]) -> Callable[[McpCall], Awaitable[Outcome]]:
    async def run(_: McpCall) -> Outcome:
        return {"content": content}

    return run


async def greets(_: McpCall, *, name: str) -> Outcome:
    return {"content": [text(f"Hello, {name}!")]}


async def works(call: McpCall, *, seconds: float, label: str = "") -> Outcome:
    return await run_agent(call, prompt=f"work {seconds} {label}")


async def fails_as_a_task(call: McpCall) -> Outcome:
    if not call.takes_tasks:
        needed: Result = {"requiredCapabilities": {"extensions": {TASKS: {}}}}
        raise RpcError(MISSING_CAPABILITY, "This takes long.", needed)
    return await run_agent(call, prompt="fail")


async def asks_once(call: McpCall, *, filename: str) -> Outcome:
    return await run_agent(call, prompt=f"ask 1 {filename}")


async def asks_twice(call: McpCall) -> Outcome:
    return await run_agent(call, prompt="ask 2")


async def fails(_: McpCall) -> Outcome:
    raise Conflict("This tool intentionally returns an error for testing")


async def needs_sampling(call: McpCall) -> Outcome:
    if "sampling" not in call.capabilities:
        raise RpcError(MISSING_CAPABILITY, "This needs sampling.", {"requiredCapabilities": {"sampling": {}}})
    return {"content": [text("Done")]}


async def tells_its_progress(_: McpCall) -> Outcome:
    async def goes_on() -> ToolProgress:
        for progress in (0, 50, 100):
            yield progress, f"{progress} %"
        yield {"content": [text("Done")]}

    return goes_on()


# -- tools that ask in return -----------------------------------------------------------------------------------------


def elicited(message: str, name: str, kind: str = "string") -> dict[str, Json]:
    schema: dict[str, Json] = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}}


def sampled(message: str) -> dict[str, Json]:
    said: dict[str, Json] = {"role": "user", "content": text(message)}
    return {"method": "sampling/createMessage", "params": {"messages": [said], "maxTokens": 100}}


ROOTS: dict[str, Json] = {"method": "roots/list", "params": {}}
WHO = {"user_name": elicited("What is your name?", "name")}
CONFIRM = {"confirm": elicited("Please confirm", "ok", "boolean")}

Round = dict[str, dict[str, Json]]
ROUNDS: dict[str, list[Round]] = {
    "elicitation": [WHO],
    "sampling": [{"capital_question": sampled("What is the capital of France?")}],
    "list_roots": [{"client_roots": ROOTS}],
    "request_state": [CONFIRM],
    "tampered_state": [CONFIRM],
    "multiple_inputs": [{**WHO, "greeting": sampled("Generate a greeting"), "client_roots": ROOTS}],
    "multi_round": [
        {"step1": elicited("Step 1: What is your name?", "name")},
        {"step2": elicited("Step 2: What is your favorite color?", "color")},
    ],
    "capabilities": [{**WHO, "greeting": sampled("Generate a greeting")}],
}


def sealed(number: int) -> str:
    return f"{number}-{hmac.digest(b'of tests', str(number).encode(), 'sha256').hex()}"


def asks(rounds: list[Round], *, then_greets: bool = False) -> Callable[[McpCall], Awaitable[Outcome]]:
    """Ask the client in each round for what it can give."""

    async def run(call: McpCall) -> Outcome:
        params = call.params
        state, answers = params.get("requestState", sealed(0)), params.get("inputResponses")
        number = int(str(state).partition("-")[0])
        if state != sealed(number):
            raise RpcError(INVALID_PARAMS, "requestState is not what it was.")
        match answers:
            case Mapping() if all(isinstance(answers.get(key), Mapping) for key in rounds[number]):
                number += 1
        if number < len(rounds):
            able = {
                name.partition("/")[0]: name for name in ("elicitation/create", "sampling/createMessage", "roots/list")
            }
            can = [able[name] for name in call.capabilities if name in able]
            asked: Json = {key: each for key, each in rounds[number].items() if each["method"] in can}
            return {"resultType": "input_required", "inputRequests": asked, "requestState": sealed(number)}
        match answers:
            case {"user_name": {"content": {"name": str(name)}}} if then_greets:
                return await run_agent(call, prompt=f"greet {name}")
        return {"content": [text("state-ok")]}

    return run


TOOLS: tuple[Tool, ...] = (
    *(tool(name, says(*content)) for name, content in CONTENTS.items()),
    tool("test_error_handling", fails),
    tool("test_missing_capability", needs_sampling),
    tool("test_tool_with_progress", tells_its_progress),
    tool("json_schema_2020_12_tool", says(text("Done")), SCHEMA),
    *(tool(f"test_input_required_result_{name}", asks(rounds)) for name, rounds in ROUNDS.items()),
    tool("test_tool_with_task", asks([WHO], then_greets=True)),
    tool("greet", greets),
    tool("slow_compute", works),
    tool("failing_job", fails_as_a_task),
    tool("protocol_error_job", fails_as_a_task),
    tool("confirm_delete", asks_once),
    tool("multi_input", asks_twice),
)

# -- resources --------------------------------------------------------------------------------------------------------


async def read(call: McpCall, uri: str) -> Result | None:
    if uri == "test://static-text":
        return {"mimeType": "text/plain", "text": "This is the content of the static text resource."}
    if uri == "test://static-binary":
        return {"mimeType": "image/png", "blob": PIXEL}
    if uri.startswith("test://template/"):
        number = uri.split("/")[3]
        said = {"id": number, "templateTest": True, "data": f"Data for ID: {number}"}
        return {"mimeType": "application/json", "text": json.dumps(said)}
    return await read_resource(call, uri)


async def update_task(call: McpCall, task_id: str) -> Result:
    """The suite confirms what it thinks that its own tools ask."""
    given = call.param("inputResponses", dict)
    answers: Json = {key: {"action": "accept", "content": {"answer": "Yes"}} for key in given}
    said = replace(call, params={**call.params, "inputResponses": answers})
    return await TASK_METHODS["tasks/update"](said, task_id)


JUDGED: Mapping[str, Any] = {
    "TOOLS": TOOLS,
    "read_resource": read,
    "TASK_METHODS": {**TASK_METHODS, "tasks/update": update_task},
}
"""What the gateway's server has, as the suite wants it."""
