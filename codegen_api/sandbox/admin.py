"""The sandbox's own routes, under /_sandbox: faults, counts, and runs made by hand.

They need no token, are not limited and not counted. Nothing like them exists on the host; whoever can reach the
sandbox can use them, which is why it refuses to listen beyond loopback unless told to.
"""

from collections.abc import Sequence
from dataclasses import replace

from fastapi import APIRouter, HTTPException
from fastapi.responses import Response

from .bodies import FaultOrder, PatchOrder, SeedOrder
from .directory import HostedUser
from .encoding import json_response
from .faults import Faults
from .ledger import Ledger
from .limits import Limits
from .operations import OPERATIONS, UNKNOWN
from .run import HostedRun, RunState
from .scenarios import EXAMPLE_ID, scenario_names
from .script import Fields, Script, at_once, entry_fields, listed
from .world import World

BARE_BYTES = 270
"""About the length of a generated entry without padding."""


class Admin:
    """The admin routes over the parts of one sandbox."""

    def __init__(self, world: World, ledger: Ledger, faults: Faults, limits: Limits) -> None:
        self._world = world
        self._directory = world.directory
        self._ledger = ledger
        self._faults = faults
        self._limits = limits

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/_sandbox")
        for method, path, endpoint in (
            ("GET", "", self.about),
            ("POST", "/faults", self.arm_fault),
            ("GET", "/faults", self.list_faults),
            ("DELETE", "/faults", self.disarm_faults),
            ("GET", "/requests", self.list_requests),
            ("DELETE", "/requests", self.forget_requests),
            ("POST", "/runs", self.seed_run),
            ("GET", "/runs/{run_id}", self.get_run),
            ("PATCH", "/runs/{run_id}", self.patch_run),
        ):
            router.add_api_route(path, endpoint, methods=[method], response_model=None)
        return router

    async def about(self) -> Response:
        """What there is to play with."""
        tokens = {
            user.token: {
                "id": user.id,
                "name": user.name,
                "organizations": [each.id for each in self._directory.organizations_of(user)],
            }
            for user in self._directory.users
        }
        return json_response(
            {
                "tokens": tokens,
                "scenarios": scenario_names(),
                "operations": [*OPERATIONS, UNKNOWN],
                "example_run": EXAMPLE_ID,
                "limits": self._limits.policy,
                "speed": self._world.speed,
            }
        )

    async def arm_fault(self, order: FaultOrder) -> Response:
        """The fault as it was armed. 422 for an operation or a token that nobody could ever use."""
        if order.match.operation not in (None, UNKNOWN, *OPERATIONS):
            raise HTTPException(422, f"no such operation: {order.match.operation!a}")
        user = None if order.match.token is None else self._user(order.match.token).name
        return json_response(self._faults.arm(order, user).to_wire())

    async def list_faults(self) -> Response:
        return json_response({"faults": [fault.to_wire() for fault in self._faults.armed()]})

    async def disarm_faults(self) -> Response:
        self._faults.disarm()
        return await self.list_faults()

    async def list_requests(self) -> Response:
        return json_response(self._ledger.to_wire())

    async def forget_requests(self) -> Response:
        self._ledger.forget()
        return await self.list_requests()

    async def seed_run(self, order: SeedOrder) -> Response:
        """A run whose log is there at once and which changes only by further orders."""
        if order.organization_id not in self._directory.organizations:
            raise HTTPException(422, f"no such organization: {order.organization_id}")
        run = self._world.add(
            order.organization_id,
            self._user(order.user),
            _script(order),
            RunState(order.status, order.result, order.summary, tuple(order.github_pull_requests)),
            source_type=order.source_type,
            metadata=order.metadata,
        )
        return self._show(run)

    async def get_run(self, run_id: int) -> Response:
        return self._show(self._world.run(run_id))

    async def patch_run(self, run_id: int, order: PatchOrder) -> Response:
        """Carry out an order whole, or, with 422, not at all."""
        run = self._world.run(run_id)
        now = self._world.now()
        length = run.length(now) if order.entries is None else len(order.entries)
        for amendment in order.amend:
            if not 1 <= amendment.position <= length + len(order.append):
                raise HTTPException(422, f"no entry at position {amendment.position}")
        if order.entries is not None:
            run.replay(listed(order.entries), now)
        if order.append:
            run.play(listed(order.append), now)
        for amendment in order.amend:
            run.edit(amendment.position - 1, amendment.fields, now)
        changes = order.model_dump(include={"status", "result", "summary"} & order.model_fields_set)
        if changes:
            run.settle(replace(run.state(now), **changes), now)
        return self._show(run)

    def _show(self, run: HostedRun) -> Response:
        now = self._world.now()
        return json_response({**run.to_wire(now), "total_logs": run.length(now)})

    def _user(self, name_or_token: str) -> HostedUser:
        user = self._directory.named(name_or_token)
        if user is None:
            raise HTTPException(422, f"no such user or token: {name_or_token!a}")
        return user


def _script(order: SeedOrder) -> Script:
    """The order's entries, then its generated ones, each made when it is first read."""
    entries: Sequence[Fields] = tuple(order.entries)
    padding = "x" * max(0, order.entry_bytes - BARE_BYTES)

    def entry(index: int) -> Fields:
        if index < len(entries):
            return entries[index]
        return entry_fields(
            "ACTION",
            tool_name="view_file",
            observation=f"entry {index + 1}",
            tool_input={"path": f"src/file_{index}.py"},
            tool_output={"text": padding},
        )

    return Script(at_once(len(entries) + order.count), entry)
