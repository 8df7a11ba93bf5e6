"""Give an agent a task over MCP: python mcp_client.py http://127.0.0.1:8000 sandbox-alice "Add a test"

Prints what the agent does, and then its answer; what it asks meanwhile, you are asked. Needs `pip install mcp`.
"""

import asyncio
import sys
import uuid
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """What a tool gives. One that fails says why."""
    result = await client.call_tool(tool, arguments)
    if result.is_error:
        raise RuntimeError(*(block.text for block in result.content if block.type == "text"))
    return result.structured_content or {}


async def follow(client: Client, run_id: str, after: int | str = 0) -> dict[str, Any]:
    """Watch a run to its end. `after` is all there is to remember, to go on later or in another process."""
    while True:
        now = await call(client, "follow_run", run_id=run_id, after=after)  # waits for what comes next
        after = now["next_after"]
        for entry in now["entries"]:
            print(entry["position"], entry["kind"], entry.get("tool", ""), entry["text"][:100])
        if now["ended"]:
            return now
        for asked in now.get("waiting_for", []):
            await answer(client, run_id, asked)


async def answer(client: Client, run_id: str, asked: dict[str, Any]) -> None:
    """Let the user decide what the agent waits for."""
    said = await asyncio.to_thread(input, f"{asked.get('text', 'The agent waits for an answer.')} ")
    decision = "answer"
    if asked["reason"] == "approval":
        decision = "approve" if said == "yes" else "reject"
    request_id = asked.get("request_id")  # not every host says what it is
    await call(client, "resume_run", run_id=run_id, prompt=said, request_id=request_id, decision=decision)


async def main(base: str, token: str, prompt: str) -> str | None:
    """What went wrong, if something did."""
    http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60)
    async with http, Client(streamable_http_client(f"{base}/mcp", http_client=http)) as client:
        try:
            run = await call(client, "start_run", prompt=prompt, idempotency_key=str(uuid.uuid4()))
            ended = await follow(client, run["run_id"])
        except RuntimeError as error:
            return str(error)
    print(f"{ended['run_status']}: {ended['answer']}")
    return None


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python mcp_client.py URL TOKEN PROMPT")
    sys.exit(asyncio.run(main(*sys.argv[1:])))
