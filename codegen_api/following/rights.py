"""Who may see which run, as the host last confirmed it.

A right is a pair: a credential and a run. All viewers of a run share its log, but not the right to view it: the host is
asked with each credential before that gets its first byte, and again and again while it views.
"""

import asyncio
import math
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import InitVar, dataclass, field, replace
from typing import Protocol

from cachetools import TTLCache

from codegen_api.identity import Credential
from codegen_api.runs import LogPage, Run, RunRef
from codegen_api.singleflight import Singleflight

LIFETIME = 60.0
"""Seconds for which an answer of the host is good."""

HELD_BYTES = 16 * 1024 * 1024
"""Bytes of all rights that are held."""

RIGHT_BYTES, VALUE_BYTES = 1000, 60
"""Bytes of the objects around the texts: per right, and per value in the description of its run."""

TICK = 0.001
"""Seconds by which a timer may be early: a sum of floats need not reach its own deadline."""


@dataclass(frozen=True, slots=True)
class Right:
    """The host's permission to see a run, which it described as ``run``. Times are the event loop's.

    ``whole``: the host was asked for the run itself, and not for a ``page`` of its log, which describes it less fully.
    """

    run: Run
    asked: float
    confirmed: float
    whole: bool = True
    page: LogPage | None = None


def _size(right: Right) -> int:
    """Memory cost of holding this right, in bytes, roughly."""
    size = RIGHT_BYTES
    waiting: list[object] = [*right.run.fields, *right.run.fields.values()]
    size += VALUE_BYTES * (1 + len(waiting))
    for part in waiting:  # which the loop extends
        if isinstance(part, str):
            size += sys.getsizeof(part)
        elif isinstance(part, dict):
            waiting += [*part, *part.values()]
            size += 2 * VALUE_BYTES * len(part)
        elif isinstance(part, list):
            waiting += part
            size += VALUE_BYTES * len(part)
    return size


def loop_time() -> float:
    """Seconds by the running event loop: real, or virtual in a simulation."""
    return asyncio.get_running_loop().time()


async def set_within(seconds: float, event: asyncio.Event) -> None:
    """Wait for the event, but no longer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class CommonRights(Protocol):
    """Rights confirmed or refused to any instance, by the digest of a credential and the run."""

    revoked: Callable[[str, RunRef], None]
    """Called when another instance was refused."""

    async def find(self, digest: str, ref: RunRef) -> Right | None:
        """A right that was confirmed within ``LIFETIME``."""

    def keep(self, digest: str, ref: RunRef, right: Right) -> None:
        """Store a right that the host has confirmed. Does not wait."""

    def revoke(self, digest: str, ref: RunRef) -> None:
        """Remove a right that the host has refused. Does not wait."""


@dataclass(eq=False, slots=True)
class Rights:
    """The rights that are good now, here and, in ``common``, in other instances. ``get`` asks the host for a run with
    the given credential.

    Each holds a description of its run, and all together ``at_most`` bytes: the least recently used goes first.
    """

    get: Callable[[Credential, RunRef], Awaitable[Run]]
    common: CommonRights | None = None
    at_most: InitVar[int] = HELD_BYTES
    doubted: Callable[[str, RunRef], None] | None = None
    """Called when the host has refused the credential with this digest in another instance."""
    _held: TTLCache[tuple[str, RunRef], Right] = field(init=False)
    _flights: Singleflight[tuple[str, RunRef], Right] = field(default_factory=Singleflight)

    def __post_init__(self, at_most: int) -> None:
        self._held = TTLCache(at_most, LIFETIME, timer=loop_time, getsizeof=_size)
        if self.common is not None:
            self.common.revoked = self._revoked_elsewhere

    def held(self, credential: Credential, ref: RunRef) -> Right | None:
        return self._held.get((credential.digest, ref))

    def asked_for(self, credential: Credential, ref: RunRef) -> bool:
        """Whether a request for this right is under way."""
        return (credential.digest, ref) in self._flights

    async def require(self, credential: Credential, ref: RunRef) -> Right:
        """The right of ``credential`` to see ``ref``, with the whole run: held, or asked for once for all who wait.

        Raises:
            GatewayError: the host did not confirm it.
        """
        key = (credential.digest, ref)
        held = self._held.get(key)
        if held is not None and held.whole:
            return held
        return await self._flights.share(key, lambda: self._find_or_ask(credential, ref))

    async def find(self, credential: Credential, ref: RunRef) -> Right | None:
        """The right, if it is good now here or in another instance. One found elsewhere is not held here as well, which
        would extend its lifetime.
        """
        held = self.held(credential, ref)
        return held if held is not None or self.common is None else await self.common.find(credential.digest, ref)

    async def confirmed(self, credential: Credential, ref: RunRef) -> float:
        """When (event loop time) the host last confirmed this right to another instance."""
        found = None if self.common is None else await self.common.find(credential.digest, ref)
        return -math.inf if found is None else found.confirmed

    async def _find_or_ask(self, credential: Credential, ref: RunRef) -> Right:
        found = None if self.common is None else await self.common.find(credential.digest, ref)
        return found if found is not None and found.whole else await self.ask(credential, ref)

    async def ask(self, credential: Credential, ref: RunRef, *, since: float | None = None) -> Right:
        """Ask the host now, unless a right was asked for at ``since`` or later. Joins no request that is under way: its
        answer may be older than what the caller knows.
        """
        held = self._held.get((credential.digest, ref))
        if since is not None and held is not None and held.whole and held.asked >= since:
            return held
        asked = loop_time()
        run = await self.get(credential, ref)
        right = self.grant(credential, run, asked)
        return right if ref == run.ref else self._hold(credential, right, ref)  # under the requested name as well

    def grant(self, credential: Credential, run: Run, asked: float) -> Right:
        """Hold the right: ``asked`` at that time (event loop time), the host has shown ``run`` to ``credential``."""
        return self._hold(credential, Right(run, asked, asked), run.ref)

    def grant_by(self, credential: Credential, ref: RunRef, page: LogPage, asked: float) -> Right:
        """Hold the right: the host has shown a ``page`` of the log of ``ref`` to ``credential``."""
        right = Right(page.run, asked, asked, whole=False)
        for name in {ref, page.run.ref}:
            self._hold(credential, right, name)
        return replace(right, page=page)  # which is not kept

    def renew(self, credential: Credential, ref: RunRef) -> None:
        """Confirm a held right: the host has just shown the log to ``credential``."""
        right = self._held.get((credential.digest, ref))
        if right is not None:
            self._hold(credential, replace(right, confirmed=loop_time()), ref)

    def revoke(self, credential: Credential, ref: RunRef) -> None:
        """Remove the right: the host has just refused ``credential``."""
        self._held.pop((credential.digest, ref), None)
        if self.common is not None:
            self.common.revoke(credential.digest, ref)

    def _revoked_elsewhere(self, digest: str, ref: RunRef) -> None:
        self._held.pop((digest, ref), None)
        if self.doubted is not None:
            self.doubted(digest, ref)

    def _hold(self, credential: Credential, right: Right, ref: RunRef) -> Right:
        if self.common is not None:
            self.common.keep(credential.digest, ref, right)
        try:
            self._held[credential.digest, ref] = right
        except ValueError:  # larger than the whole cache
            self._held.pop((credential.digest, ref), None)
        return right

    async def aclose(self) -> None:
        await self._flights.aclose()
