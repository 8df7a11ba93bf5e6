"""The sandbox's own routes, under /_sandbox: faults, counts, and runs made by hand.

They need no token, are not limited and not counted. The host has nothing like them. Anybody who can reach the sandbox
can use them, so it listens beyond loopback only with `--open`.
"""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response

from .answers import json_response
from .bodies import FaultOrder, PatchOrder, SeedOrder
from .directory import ORGANIZATIONS, USERS, HostedUser, organizations_of
from .host import OPERATIONS, UNKNOWN
from .run import HostedRun, RunState
from .scenarios import EXAMPLE_ID, LongLog, Script, TimedEntry, at_once, entry_fields, scenario_names
from .state import SandboxState

BARE_BYTES = 270
"""About the length of a generated entry without padding."""


async def _state(request: Request) -> SandboxState:
    state: SandboxState = request.app.state.sandbox
    return state


Sandbox = Annotated[SandboxState, Depends(_state)]

router = APIRouter(prefix="/_sandbox")


@router.get("")
async def about(sandbox: Sandbox) -> Response:
    """The tokens, scenarios, operations and options of this sandbox."""
    tokens = {
        user.token: {
            "id": user.id,
            "name": user.name,
            "organizations": [each.id for each in organizations_of(user)],
        }
        for user in USERS
    }
    return json_response(
        {
            "tokens": tokens,
            "scenarios": scenario_names(),
            "operations": [*OPERATIONS, UNKNOWN],
            "example_run": EXAMPLE_ID,
            "limits": sandbox.limits.policy,
            "speed": sandbox.speed,
        }
    )


@router.post("/faults")
async def arm_fault(order: FaultOrder, sandbox: Sandbox) -> Response:
    """The fault as it was armed. 422 for an operation or a token that nobody could ever use."""
    if order.match.operation not in (None, UNKNOWN, *OPERATIONS):
        raise HTTPException(422, f"no such operation: {order.match.operation!a}")
    user = None if order.match.token is None else _user(order.match.token).name
    return json_response(sandbox.faults.arm(order, user).to_wire())


@router.get("/faults")
async def list_faults(sandbox: Sandbox) -> Response:
    return json_response({"faults": [fault.to_wire() for fault in sandbox.faults.armed()]})


@router.delete("/faults")
async def disarm_faults(sandbox: Sandbox) -> Response:
    sandbox.faults.disarm()
    return await list_faults(sandbox)


@router.get("/requests")
async def list_requests(sandbox: Sandbox) -> Response:
    return json_response(sandbox.requests.to_wire())


@router.delete("/requests")
async def forget_requests(sandbox: Sandbox) -> Response:
    sandbox.requests.forget()
    return await list_requests(sandbox)


@router.post("/runs")
async def seed_run(order: SeedOrder, sandbox: Sandbox) -> Response:
    """Add a run whose log is complete at once, and which only further orders change."""
    if order.organization_id not in ORGANIZATIONS:
        raise HTTPException(422, f"no such organization: {order.organization_id}")
    run = sandbox.add(
        order.organization_id,
        _user(order.user),
        _script(order),
        RunState(order.status, order.result, order.summary, tuple(order.github_pull_requests)),
        source_type=order.source_type,
        metadata=order.metadata,
    )
    return _show(run, sandbox)


@router.get("/runs/{run_id}")
async def get_run(run_id: int, sandbox: Sandbox) -> Response:
    return _show(sandbox.run(run_id), sandbox)


@router.patch("/runs/{run_id}")
async def patch_run(run_id: int, order: PatchOrder, sandbox: Sandbox) -> Response:
    """Carry out an order whole, or, with 422, not at all."""
    run = sandbox.run(run_id)
    now = sandbox.now()
    length = run.length(now) if order.entries is None else len(order.entries)
    for amendment in order.amend:
        if not 1 <= amendment.position <= length + len(order.append):
            raise HTTPException(422, f"no entry at position {amendment.position}")
    if order.entries is not None:
        run.replay(at_once(order.entries), now)
    if order.append:
        run.play(at_once(order.append), now)
    for amendment in order.amend:
        segment, index = run.place(amendment.position - 1)
        segment.edit(index, amendment.fields)
    changes = order.model_dump(include={"status", "result", "summary"} & order.model_fields_set)
    if changes:
        run.play(Script(), now, replace(run.state(now), **changes))
    return _show(run, sandbox)


def _show(run: HostedRun, sandbox: SandboxState) -> Response:
    now = sandbox.now()
    return json_response({**run.to_wire(now), "total_logs": run.length(now)})


def _user(name_or_token: str) -> HostedUser:
    for user in USERS:
        if name_or_token in (user.name, user.token):
            return user
    raise HTTPException(422, f"no such user or token: {name_or_token!a}")


def _script(order: SeedOrder) -> Script:
    """The order's entries, then its generated ones, each made when it is first read."""
    padding = "x" * max(0, order.entry_bytes - BARE_BYTES)

    def entry(index: int) -> TimedEntry:
        if index < len(order.entries):
            return TimedEntry(0.0, order.entries[index])
        fields = entry_fields(
            "ACTION",
            tool_name="view_file",
            observation=f"entry {index + 1}",
            tool_input={"path": f"src/file_{index}.py"},
            tool_output={"text": padding},
        )
        return TimedEntry(0.0, fields)

    return Script(LongLog(len(order.entries) + order.count, entry))
