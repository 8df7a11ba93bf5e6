"""An A2A server on the port that is its argument: protocol 1.0 as REST at /rest and as JSON-RPC at /rpc, and there 0.3.

Each step of the agent is a message of the task, and its answer an artifact in two parts, and then the last message.
"""

import json
import sys
from typing import Any

import uvicorn
from a2a.helpers import new_task_from_user_message, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers.default_request_handler_v2 import DefaultRequestHandlerV2
from a2a.server.routes.agent_card_routes import create_agent_card_routes
from a2a.server.routes.jsonrpc_routes import create_jsonrpc_routes
from a2a.server.routes.rest_routes import create_rest_routes
from a2a.server.tasks.inmemory_task_store import InMemoryTaskStore
from a2a.server.tasks.task_updater import TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill
from starlette.applications import Starlette

from tests.upstreams.hosts.agents.asking import ask_model, done_alone, question_of


class Executor(AgentExecutor):
    """Does in each task what the model says."""

    def __init__(self) -> None:
        self._said: dict[str, list[dict[str, Any]]] = {}

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        if context.current_task is None:
            await event_queue.enqueue_event(new_task_from_user_message(context.message))
        task = TaskUpdater(event_queue, context.task_id, context.context_id)
        said = self._said.setdefault(context.task_id, [])
        if said:
            self._came_of(said, context.get_user_input())
        else:
            said.append({"role": "user", "content": context.get_user_input()})
        try:
            await self._work(task, said)
        except RuntimeError as error:
            await task.failed(message(task, str(error)))

    async def _work(self, task: TaskUpdater, said: list[dict[str, Any]]) -> None:
        await task.start_work()
        while True:
            answer = await ask_model(said)
            said.append(answer)
            if "tool_calls" not in answer:
                first, _, rest = answer["content"].partition(" ")
                named = {"artifact_id": "answer", "name": "answer"}
                await task.add_artifact([new_text_part(first + " ")], append=False, **named)
                await task.add_artifact([new_text_part(rest)], append=True, last_chunk=True, **named)
                await task.complete(message(task, answer["content"]))
                return
            await task.start_work(message(task, answer["content"]))
            call = answer["tool_calls"][0]["function"]
            arguments = json.loads(call["arguments"])
            done = done_alone(call["name"], arguments)
            if done is None:
                await task.requires_input(message(task, question_of(arguments)))
                return
            self._came_of(said, done)

    def _came_of(self, said: list[dict[str, Any]], done: str) -> None:
        said.append({"role": "tool", "tool_call_id": said[-1]["tool_calls"][0]["id"], "content": done})

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


def message(task: TaskUpdater, text: str) -> Any:
    return task.new_agent_message([new_text_part(text)])


def create_app(url: str) -> Starlette:
    interfaces = [("HTTP+JSON", "/rest"), ("JSONRPC", "/rpc")]
    card = AgentCard(
        name="obedient",
        description="does what a prompt says",
        version="1",
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["text"],
        default_output_modes=["text"],
        skills=[AgentSkill(id="obey", name="obey", description="obeys", tags=["test"])],
        supported_interfaces=[
            AgentInterface(url=url + path, protocol_binding=binding, protocol_version="1.0")
            for binding, path in interfaces
        ],
    )
    handler = DefaultRequestHandlerV2(Executor(), InMemoryTaskStore(), card)
    rpc = create_jsonrpc_routes(handler, "/rpc", enable_v0_3_compat=True)
    rest = create_rest_routes(handler, path_prefix="/rest")
    return Starlette(routes=[*create_agent_card_routes(card), *rpc, *rest])


def main() -> None:
    port = int(sys.argv[1])
    uvicorn.run(create_app(f"http://127.0.0.1:{port}"), port=port)


if __name__ == "__main__":
    main()
