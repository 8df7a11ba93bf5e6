"""Runs as tasks, for clients that poll: a task is a run, under its id, so that every instance knows all of them."""

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Literal

from codegen_api.dialects.mcp.rpc import INVALID_PARAMS, RpcError
from codegen_api.dialects.mcp.runs import described, pending_of, result_of_tool
from codegen_api.dialects.mcp.server import McpCall, Result
from codegen_api.errors import IdempotencyKeyReused, NotFound, Rejected, RunEnded
from codegen_api.runs import Json, Run, RunStatus, WaitReason
from codegen_api.upstreams import Decision, PendingRequest
from codegen_api.web import timestamp

POLL_MS = 5_000

Status = Literal["working", "input_required", "completed", "cancelled"]

_STATUSES: Mapping[RunStatus, Status] = {
    RunStatus.COMPLETED: "completed",
    RunStatus.FAILED: "completed",  # the task is over, and its result says that the tool failed
    RunStatus.CANCELLED: "cancelled",
}

_ANSWER: Result = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
_APPROVAL: Result = {
    "type": "object",
    "properties": {"approve": {"type": "boolean"}, "text": {"type": "string"}},
    "required": ["approve"],
}


def task_of(run: Run, status: Status) -> dict[str, Json]:
    """What is said of every task. How long it is kept is for the host to say."""
    now = time.time()
    return {
        "taskId": run.ref.id,
        "status": status,
        "createdAt": timestamp(run.created or now),
        "lastUpdatedAt": timestamp(now),
        "ttlMs": None,
        "pollIntervalMs": POLL_MS,
    }


class RunTasks:
    """The tasks of ``run_agent``, and any other run."""

    async def get(self, call: McpCall, task_id: str) -> Result:
        run = await _run(call, task_id)
        status = _STATUSES.get(run.status, "working")
        if status == "completed":
            result = result_of_tool(await described(call, run), is_error=run.status is RunStatus.FAILED)
            return {**task_of(run, status), "result": result}
        if run.status is not RunStatus.WAITING:
            return {**task_of(run, status), "statusMessage": run.raw_status or run.status.value}
        asked = await _asked(call, run)
        if "elicitation" not in call.request.capabilities:  # then the client cannot ask anybody
            said = "; ".join(_said(run, pending) for pending in asked.values())
            return {**task_of(run, "working"), "statusMessage": f"{said} (answer with resume_run)"}
        requests = {key: _elicitation(run, pending) for key, pending in asked.items()}
        return {**task_of(run, "input_required"), "inputRequests": requests}

    async def update(self, call: McpCall, task_id: str, responses: Result) -> None:
        run = await _run(call, task_id)
        if run.status is not RunStatus.WAITING:
            return  # too late
        for key, pending in (await _asked(call, run)).items():
            said = _words(key, responses.get(key), pending)
            if said is None:
                continue
            organization, run_id = run.ref.organization, run.ref.id
            with suppress(NotFound, IdempotencyKeyReused):  # somebody was faster
                if pending is not None:
                    await call.gateway.decide(call.caller, organization, run_id, pending.id, said)
                    continue
                text, again = said.text or "", f"mcp {task_id} {key}"
                await call.parts.idempotency.resume(call.caller, organization, run_id, text, None, again)

    async def cancel(self, call: McpCall, task_id: str) -> None:
        run = await _run(call, task_id)
        if run.status.ended:
            return
        with suppress(RunEnded):  # in the meantime, which the next look will say
            await call.gateway.cancel(call.caller, run.ref.organization, run.ref.id)


async def _run(call: McpCall, task_id: str) -> Run:
    """
    Raises:
        NotFound: there is none, or not for this caller.
    """
    try:
        return await call.gateway.get(call.caller, await call.organization(), task_id)
    except Rejected:  # no run is called so
        raise NotFound from None


async def _asked(call: McpCall, run: Run) -> dict[str, PendingRequest | None]:
    """What a waiting run waits for, under keys that no other wait of it has; None where the host does not say what."""
    pending = await pending_of(call, run)
    if pending:
        return {f"wait-{each.id}": each for each in pending}
    page = await call.gateway.read_log(call.caller, run.ref.organization, run.ref.id, 0, 1, newest_first=True)
    last = page.paging.total if page.paging.total is not None else "".join(entry.digest for entry in page.entries)
    return {f"wait-{last}": None}


def _said(run: Run, pending: PendingRequest | None) -> str:
    if pending is not None:
        return pending.text
    return f"The agent waits for {'an answer' if run.reason is None else run.reason.value}."


def _elicitation(run: Run, pending: PendingRequest | None) -> Result:
    approval = pending is not None and pending.reason is WaitReason.APPROVAL
    said: Json = {"mode": "form", "message": _said(run, pending), "requestedSchema": _APPROVAL if approval else _ANSWER}
    return {"method": "elicitation/create", "params": said}


def _words(key: str, response: Json, pending: PendingRequest | None) -> Decision | None:
    """What somebody has decided; None if they have not.

    Raises:
        RpcError: the response is of another form than was asked for.
    """
    if not isinstance(response, Mapping) or response.get("action") not in ("accept", "decline"):
        return None
    content = response.get("content")
    content = content if isinstance(content, Mapping) else {}
    if pending is not None and (response["action"] == "decline" or pending.reason is WaitReason.APPROVAL):
        approve, text = content.get("approve", False), content.get("text")
        return Decision("approve" if approve is True else "reject", text if isinstance(text, str) else None)
    if response["action"] == "decline":
        return Decision("answer", "No answer is given.")
    answer = content.get("answer")
    if not isinstance(answer, str) or not answer.strip():
        raise RpcError(INVALID_PARAMS, f"inputResponses.{key[:100]}.content.answer must be a text.")
    return Decision("answer", answer)
