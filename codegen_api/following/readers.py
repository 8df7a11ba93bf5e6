"""The readers of a run: the credentials of those who view it, with which the host is asked on their behalf.

Reads rotate over them, so that each is shown to the host again and again: who loses the right to see the run is
noticed, and only their own viewers have to go.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import TypeVar

from codegen_api.errors import GatewayError, ShuttingDown, Unavailable, UpstreamFailure, UpstreamRateLimited
from codegen_api.following.rights import LIFETIME, Right, Rights, loop_time
from codegen_api.identity import Credential
from codegen_api.pace import Patience
from codegen_api.runs import RunRef

T = TypeVar("T")

RATE_LIMIT_WAIT = 10.0
"""Seconds to wait after a 429 that does not say how long."""

Waits = MutableMapping[str, float]
"""Until when (the event loop's time) the host has asked for patience, by the digest of the credential."""


@dataclass(frozen=True, slots=True)
class Notice:
    """The log is late, not lost: why, and in how many seconds the host is asked again."""

    code: str
    retry_in: float | None = None


RECOVERED = "recovered"


class Readers:
    """Who views one run, by credential, and asking the host with theirs."""

    def __init__(self, ref: RunRef, rights: Rights, waits: Waits) -> None:
        self.trouble: Notice | None = None
        self.listeners: set[Callable[[], None]] = set()
        """Called when a viewer has something to hear that does not come through the broker."""
        self._ref = ref
        self._rights = rights
        self._waits = waits
        self._viewers: Counter[Credential] = Counter()
        self._shown: dict[Credential, float] = {}
        self._refused: dict[Credential, GatewayError] = {}
        self._present = asyncio.Event()
        self._joined = asyncio.Event()
        self._closed = False

    @property
    def viewers(self) -> int:
        return self._viewers.total()

    def join(self, credential: Credential, right: Right) -> None:
        """Somebody views the run, by this right."""
        self._refused.pop(credential, None)
        self._shown.setdefault(credential, right.confirmed)
        self._viewers[credential] += 1
        self._present.set()
        self._joined.set()

    def leave(self, credential: Credential) -> None:
        self._viewers[credential] -= 1
        if self._viewers[credential] <= 0:
            del self._viewers[credential]
            self._shown.pop(credential, None)
            self._refused.pop(credential, None)
        if not self._accepted():
            self._present.clear()

    def refusal(self, credential: Credential) -> GatewayError | None:
        """Why viewers with this credential may not go on."""
        return self._refused.get(credential)

    def renewal(self) -> float | None:
        """When (the event loop's time) somebody's right wants to be asked for again; None while one alone is shown."""
        accepted = self._accepted()
        return min(self._shown[credential] for credential in accepted) + LIFETIME if len(accepted) > 1 else None

    async def ask(self, call: Callable[[Credential], Awaitable[T]], *, once: bool = False) -> T:
        """The host's answer to somebody who views the run, however long that takes.

        Raises:
            ShuttingDown: nobody will view this run any more.
            Unavailable, UpstreamFailure: only with ``once``, and told to the viewers already: the host did not answer.
        """
        patience = Patience()
        while True:
            credential = await self._next()
            try:
                answer = await call(credential)
            except UpstreamRateLimited as error:
                delay = patience.next(RATE_LIMIT_WAIT if error.retry_after is None else error.retry_after)
                self._waits[credential.digest] = loop_time() + delay
                if all(self._waits.get(other.digest, 0.0) > loop_time() for other in self._accepted()):
                    self._set_trouble(Notice("rate_limited", round(delay, 1)))
                if once:
                    raise
            except (Unavailable, UpstreamFailure) as error:
                delay = patience.next(error.retry_after)
                self._set_trouble(Notice("upstream_unavailable", round(delay, 1)))
                if once:
                    raise
                await asyncio.sleep(delay)
            except GatewayError as error:
                self._refuse(credential, error)
            else:
                self._confirm(credential)
                return answer

    def tell(self) -> None:
        """Wake every viewer: there is something to hear."""
        for listener in list(self.listeners):
            listener()

    def close(self) -> None:
        """Let nobody wait for a viewer who will not come."""
        self._closed = True
        self._present.set()
        self._joined.set()

    async def _next(self) -> Credential:
        """The credential that was not shown to the host for longest, of those that it does not ask for patience."""
        while True:
            await self._present.wait()
            if self._closed:
                raise ShuttingDown
            now = loop_time()
            waits = {credential: self._waits.get(credential.digest, 0.0) - now for credential in self._accepted()}
            free = [credential for credential, wait in waits.items() if wait <= 0]
            if free:
                return min(free, key=self._shown.__getitem__)
            self._joined.clear()
            try:
                async with asyncio.timeout(min(waits.values())):
                    await self._joined.wait()  # somebody who is not asked for patience may come
            except TimeoutError:
                pass

    def _accepted(self) -> list[Credential]:
        return [credential for credential in self._viewers if credential not in self._refused]

    def _confirm(self, credential: Credential) -> None:
        self._rights.renew(credential, self._ref)
        if credential in self._viewers:
            self._shown[credential] = loop_time()
        if self.trouble is not None and self.trouble.code != RECOVERED:
            self._set_trouble(Notice(RECOVERED))

    def _refuse(self, credential: Credential, error: GatewayError) -> None:
        """The host will not show this run to this credential (any more)."""
        self._rights.revoke(credential, self._ref)
        if credential in self._viewers:
            self._refused[credential] = error
            if not self._accepted():
                self._present.clear()
            self.tell()

    def _set_trouble(self, notice: Notice) -> None:
        self.trouble = notice
        self.tell()
