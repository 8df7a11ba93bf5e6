"""How an agent asks the model of the tests, at ``MODEL_URL``, and what it does with the answer."""

import os
from typing import Any

import httpx

COMMAND = {"type": "object", "properties": {"command": {"type": "string"}}}
QUESTIONS = {"type": "object", "properties": {"questions": {"type": "array"}}}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in (("shell", COMMAND), ("ask_user", QUESTIONS))
]


async def ask_model(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The model's next message, as OpenAI has it; RuntimeError if the model refuses."""
    async with httpx.AsyncClient(timeout=3600, trust_env=False) as client:
        asked = {"model": "fake", "messages": messages, "tools": TOOLS}
        answer = await client.post(os.environ["MODEL_URL"] + "/v1/chat/completions", json=asked)
    if answer.is_error:
        raise RuntimeError(answer.json()["error"]["message"])
    return answer.json()["choices"][0]["message"]


def done_alone(name: str, arguments: dict[str, Any]) -> str | None:
    """What comes of a call that needs nobody: of ``echo``. A person has to approve or answer any other."""
    command = str(arguments.get("command", ""))
    return command.removeprefix("echo ") if name == "shell" and command.startswith("echo ") else None


def question_of(arguments: dict[str, Any]) -> str:
    """What a person is asked."""
    if "questions" in arguments:
        return str(arguments["questions"][0]["question"])
    return f"May I run {arguments['command']!r}?"
