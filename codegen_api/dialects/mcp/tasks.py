"""Runs as tasks, for clients that poll: a task is a run, under its id, so every instance knows all of them."""

import time
from contextlib import suppress

from codegen_api.conversations.progress import pending_in
from codegen_api.dialects.mcp.protocol import INVALID_PARAMS, McpCall, Result, RpcError, told
from codegen_api.dialects.mcp.runs import described, rests
from codegen_api.errors import IdempotencyKeyReused, NotFound, Rejected, RunEnded
from codegen_api.idempotency.keys import message_key
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, Run, RunStatus, WaitReason
from codegen_api.upstreams import Decision, PendingRequest
from codegen_api.web import timestamp

POLL_MS = 5_000

_STATUSES = {
    RunStatus.COMPLETED: "completed",
    RunStatus.FAILED: "completed",  # the task is over, and its result says that the tool has failed
    RunStatus.CANCELLED: "cancelled",
}


def task_of(run: Run, **more: Json) -> dict[str, Json]:
    """What is said of every task. How long it is kept is for the host to decide."""
    now = time.time()
    times = {"createdAt": timestamp(run.created or now), "lastUpdatedAt": timestamp(now)}
    status = _STATUSES.get(run.status, "working")
    return {"taskId": run.ref.id, "status": status, **times, "ttlMs": None, "pollIntervalMs": POLL_MS, **more}


async def get_task(call: McpCall, task_id: str) -> Result:
    run = await _run(call, task_id, READ)
    if run.status in (RunStatus.COMPLETED, RunStatus.FAILED):
        result = told(await described(call, run), is_error=run.status is RunStatus.FAILED)
        return task_of(run, result={"resultType": "complete", **result})
    asked = await _asked(call, run)
    if not asked:
        return task_of(run, statusMessage=run.raw_status or run.status)
    if "elicitation" not in call.capabilities:  # the client can ask nobody
        said = "; ".join(pending.text for pending in asked.values())
        return task_of(run, statusMessage=f"{said} (resume_run answers)")
    requests = {key: _elicitation(pending) for key, pending in asked.items()}
    return task_of(run, status="input_required", inputRequests=requests)


async def update_task(call: McpCall, task_id: str) -> Result:
    run, responses = await _run(call, task_id, WRITE), call.param("inputResponses", dict)
    organization, run_id = run.ref.organization, run.ref.id
    for key, pending in (await _asked(call, run)).items():
        made = _decision(key, responses.get(key), pending)
        with suppress(NotFound, IdempotencyKeyReused):  # somebody was faster
            if made is not None and pending.id:
                await call.gateway.decide(call.caller, organization, run_id, pending.id, made)
            elif made is not None:
                text, again = made.text or "I do not answer that.", message_key(f"mcp {run_id} {key}")
                await call.parts.idempotency.resume(call.caller, organization, run_id, text, None, again)
    return {}


async def cancel_task(call: McpCall, task_id: str) -> Result:
    run = await _run(call, task_id, WRITE)
    with suppress(RunEnded):  # in the meantime, which the next look will say
        if not run.status.ended:
            await call.gateway.cancel(call.caller, run.ref.organization, run.ref.id)
    return {}


TASK_METHODS = {"tasks/get": get_task, "tasks/update": update_task, "tasks/cancel": cancel_task}


async def _run(call: McpCall, task_id: str, scope: str) -> Run:
    call.require(scope)
    try:
        return await call.gateway.get(call.caller, await call.organization(), task_id)
    except Rejected:  # no run is called so
        raise NotFound from None


async def _asked(call: McpCall, run: Run) -> dict[str, PendingRequest]:
    """What a run waits for, under keys that it has for nothing else. No id: the host does not say for what."""
    if not rests(call, run):
        return {}
    if pending := await pending_in(call.gateway, call.caller, run.ref):
        return {f"wait-{each.id}": each for each in pending}
    page = await call.gateway.read_log(call.caller, run.ref.organization, run.ref.id, 0, 1, newest_first=True)
    last = page.paging.total if page.paging.total is not None else "".join(entry.digest for entry in page.entries)
    words = f"The agent waits for {run.reason or 'an answer'}."
    return {f"wait-{last}": PendingRequest("", WaitReason.QUESTION, words)}


def _elicitation(pending: PendingRequest) -> Result:
    fields: dict[str, Json] = {"answer": {"type": "string"}}
    if pending.reason is WaitReason.APPROVAL:
        fields = {"approve": {"type": "boolean"}, "text": {"type": "string"}}
    schema: Json = {"type": "object", "properties": fields, "required": [*fields][:1]}
    params: Json = {"mode": "form", "message": pending.text, "requestedSchema": schema}
    return {"method": "elicitation/create", "params": params}


def _decision(key: str, response: Json, pending: PendingRequest) -> Decision | None:
    """What somebody has decided, in the form that was asked for; None if they have not."""
    approval = pending.reason is WaitReason.APPROVAL
    match response:
        case {"action": "cancel"} | None:
            return None
        case {"action": "decline"}:
            return Decision("reject")
        case {"action": "accept", "content": {"approve": bool(approve), **rest}} if approval:
            text = rest.get("text")
            return Decision("approve" if approve else "reject", text if isinstance(text, str) else None)
        case {"action": "accept", "content": {"answer": str(answer)}} if answer.strip() and not approval:
            return Decision("answer", answer)
    raise RpcError(INVALID_PARAMS, f"inputResponses.{key[:100]} must be what was asked for.")
