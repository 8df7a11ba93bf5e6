"""Rights that several instances have in common, in virtual time; over Redis they are tested in ``tests/in_redis``."""

import asyncio
from collections.abc import Callable

import pytest

from codegen_api.brokers.memory import MemoryBroker
from codegen_api.errors import Forbidden
from codegen_api.following import Right, loop_time
from codegen_api.following.rights import LIFETIME
from codegen_api.gateway import Gateway
from codegen_api.pace import Cadence
from codegen_api.runs import RunRef
from tests.fakehost import FakeHost, caller
from tests.following.viewing import Viewer

pytestmark = pytest.mark.virtual_time

NAMES = ("alice", "bob")


class InCommon:
    """``CommonRights`` of one of several instances in one process."""

    def __init__(self, kept: dict[tuple[str, RunRef], Right], others: list["InCommon"]) -> None:
        self.revoked: Callable[[str, RunRef], None] = lambda *_: None
        self._kept = kept
        self._others = others
        others.append(self)

    async def find(self, digest: str, ref: RunRef) -> Right | None:
        right = self._kept.get((digest, ref))
        return right if right is not None and loop_time() < right.confirmed + LIFETIME else None

    def keep(self, digest: str, ref: RunRef, right: Right) -> None:
        self._kept[digest, ref] = right

    def revoke(self, digest: str, ref: RunRef) -> None:
        self._kept.pop((digest, ref), None)
        for other in self._others:
            if other is not self:
                other.revoked(digest, ref)


async def watched_for_long(host: FakeHost, *, in_common: bool, barred_at: float | None = None) -> list[object]:
    """Alice and Bob watch a run through three instances, of which one reads often; how that ended for each."""
    host.add(length=3)
    kept: dict[tuple[str, RunRef], Right] = {}
    others: list[InCommon] = []
    gateways = [
        Gateway(
            host.elsewhere(),
            MemoryBroker(),
            cadence=lambda fast=fast: Cadence(fast=fast, slow=fast, resting=fast),  # type: ignore[misc]
            common_rights=InCommon(kept, others) if in_common else None,
        )
        for fast in (2.0, 500.0, 500.0)
    ]
    watching = [
        asyncio.create_task(Viewer().watch(gateway, who=caller(name))) for gateway in gateways for name in NAMES
    ]
    await asyncio.sleep(200 if barred_at is None else barred_at)
    if barred_at is not None:
        host.barred.add(("alice", "1"))
        await asyncio.sleep(10)
    ended = [each.exception() if each.done() else None for each in watching]
    for each in watching:
        each.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    for gateway in gateways:
        await gateway.aclose()
    return list(ended)


async def test_what_one_instance_has_confirmed_is_not_asked_for_by_others() -> None:
    alone, together = FakeHost(), FakeHost()
    assert await watched_for_long(alone, in_common=False) == [None] * 6
    assert await watched_for_long(together, in_common=True) == [None] * 6
    assert alone.calls["get"] >= 3 * 2 + 2 * 2 * 2  # to begin with, and every minute where nothing is read
    assert together.calls["get"] <= 3 * 2  # who comes at the same moment as others finds nothing yet


async def test_a_refusal_at_one_instance_ends_the_streams_of_that_credential_at_all() -> None:
    ended = await watched_for_long(FakeHost(), in_common=True, barred_at=20.0)
    assert [type(each) for each in ended] == [Forbidden, type(None)] * 3
