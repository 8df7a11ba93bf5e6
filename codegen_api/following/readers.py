"""The readers of a run: the credentials of those who view it, with which the host is asked on their behalf.

Reads rotate over them, so that each is shown to the host again and again: who loses the right to see the run is
noticed, and only their own viewers have to go.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeVar

from codegen_api.errors import GatewayError, ShuttingDown, Unavailable, UpstreamFailure, UpstreamRateLimited
from codegen_api.following.rights import LIFETIME, Right, Rights, loop_time
from codegen_api.following.troubles import Troubles
from codegen_api.following.turns import Turn, Turns
from codegen_api.identity import Credential
from codegen_api.pace import Need, Patience
from codegen_api.runs import RunRef

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Notice:
    """The log is late, not lost: why, and in how many seconds the host is asked again."""

    code: str
    retry_in: float | None = None


RECOVERED = "recovered"

LOOK_ROUND = 5.0
"""Seconds after which those whose rights are to be renewed are looked for again."""


class Readers:
    """Who views one run, by credential, and asking the host with theirs."""

    def __init__(self, ref: RunRef, rights: Rights, turns: Turns, troubles: Troubles) -> None:
        self.trouble: Notice | None = None
        self.listeners: set[Callable[[], None]] = set()
        """Called when a viewer has something to hear that does not come through the broker."""
        self._ref = ref
        self._rights = rights
        self._turns = turns
        self._troubles = troubles
        self._wanted: set[Turn] = set()
        self._viewers: Counter[Credential] = Counter()
        self._shown: dict[Credential, float] = {}
        self._refused: dict[Credential, GatewayError] = {}
        self._closed = False

    @property
    def viewers(self) -> int:
        return self._viewers.total()

    def join(self, credential: Credential, right: Right) -> None:
        """Somebody views the run, by this right."""
        self._refused.pop(credential, None)
        self._shown.setdefault(credential, right.confirmed)
        self._viewers[credential] += 1
        for turn in self._wanted:
            turn.offer((credential, self._shown[credential]))

    def leave(self, credential: Credential) -> None:
        self._viewers[credential] -= 1
        if self._viewers[credential] <= 0:
            del self._viewers[credential]
            self._shown.pop(credential, None)
            self._refused.pop(credential, None)
            self._withdraw(credential)

    def refusal(self, credential: Credential) -> GatewayError | None:
        """Why viewers with this credential may not go on."""
        return self._refused.get(credential)

    async def ask(self, call: Callable[[Credential], Awaitable[T]], need: Need, *, once: bool = False) -> T:
        """The host's answer to somebody who views the run, however long that takes; ``need`` says how it is wanted.

        Raises:
            ShuttingDown: nobody will view this run any more.
            Unavailable, UpstreamFailure: only with ``once``, and told to the viewers already: the host did not answer.
        """
        patience = Patience()
        while True:
            with closing(self._turns.want(need, self._tell_of_waiting)) as turn:
                credential = await self._granted(turn)
                turn.begun()
                try:
                    answer = await call(credential)
                except UpstreamRateLimited as error:
                    self._troubles.met(self._ref, error.root_reason or error.code)
                    if once:  # the limit of another operation, for all that is known
                        raise
                    turn.refused(error.retry_after)
                except (Unavailable, UpstreamFailure) as error:
                    delay = patience.next(error.retry_after)
                    need = replace(need, since=loop_time())  # it has had its turn
                    self._troubles.met(self._ref, error.root_reason or error.code)
                    self._set_trouble(Notice("upstream_unavailable", round(delay, 1)))
                    if once:
                        raise
                    turn.close()
                    await asyncio.sleep(delay)
                except GatewayError as error:
                    self._refuse(credential, error)
                else:
                    turn.accepted()
                    self._confirm(credential)
                    return answer

    async def renew(self, ask: Callable[[Credential], Awaitable[object]]) -> None:
        """Ask for the rights of those who were not shown to the host for long, for ever.

        Reading shows everybody in turn, but those with much else to do less often, and it does not wait for them.
        """
        while True:
            accepted, long_ago = self._accepted(), loop_time() - LIFETIME + LOOK_ROUND
            due = [(each, self._shown[each]) for each in accepted if self._shown[each] <= long_ago]
            if len(accepted) < 2 or not due:  # one alone is shown at each read
                await asyncio.sleep(LOOK_ROUND)
                continue
            with closing(self._turns.want(Need(min(shown for _, shown in due), LIFETIME), _nothing)) as turn:
                turn.offer(*due)
                try:
                    async with asyncio.timeout(LOOK_ROUND):  # and then see who else is due
                        credential = await turn.granted()
                except TimeoutError:
                    continue
                if credential not in self._viewers:
                    continue
                turn.begun()
                try:
                    await ask(credential)
                except (Unavailable, UpstreamFailure) as error:
                    self._troubles.met(self._ref, error.root_reason or error.code)
                    turn.close()
                    await asyncio.sleep(LOOK_ROUND)
                except GatewayError as error:
                    self._refuse(credential, error)
                else:
                    self._confirm(credential)

    def tell(self) -> None:
        """Wake every viewer: there is something to hear."""
        for listener in list(self.listeners):
            listener()

    def close(self) -> None:
        """Let nobody wait for a viewer who will not come."""
        self._closed = True
        self._troubles.gone(self._ref)
        for turn in self._wanted:
            turn.give_up()

    async def _granted(self, turn: Turn) -> Credential:
        if self._closed:
            raise ShuttingDown
        self._wanted.add(turn)
        try:
            turn.offer(*((credential, self._shown[credential]) for credential in self._accepted()))
            if not turn.ready and (self.trouble is None or self.trouble.code == RECOVERED):
                self._tell_of_waiting()
            return await turn.granted()
        finally:
            self._wanted.discard(turn)

    def _tell_of_waiting(self) -> None:
        """Say so when the host wants patience from everybody who views this run."""
        seconds = min((self._turns.closed(credential) for credential in self._accepted()), default=0.0)
        if seconds > 0:
            self._set_trouble(Notice("rate_limited", round(seconds, 1)))

    def _withdraw(self, credential: Credential) -> None:
        for turn in self._wanted:
            turn.withdraw(credential)

    def _accepted(self) -> list[Credential]:
        return [credential for credential in self._viewers if credential not in self._refused]

    def _confirm(self, credential: Credential) -> None:
        self._rights.renew(credential, self._ref)
        self._troubles.over(self._ref)
        if credential in self._viewers:
            self._shown[credential] = loop_time()
        if self.trouble is not None and self.trouble.code != RECOVERED:
            self._set_trouble(Notice(RECOVERED))

    def _refuse(self, credential: Credential, error: GatewayError) -> None:
        """The host will not show this run to this credential (any more)."""
        self._rights.revoke(credential, self._ref)
        if credential in self._viewers:
            self._refused[credential] = error
            self._withdraw(credential)
            self.tell()

    def _set_trouble(self, notice: Notice) -> None:
        self.trouble = notice
        self.tell()


def _nothing() -> None:
    return None
