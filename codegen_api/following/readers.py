"""The readers of a run: the credentials of those who view it, with which the host is asked on their behalf.

Reads rotate over them, so that each is shown to the host again and again: who loses the right to see the run is
noticed, and only their own viewers have to go.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing, closing
from dataclasses import dataclass, field, replace
from typing import TypeVar

from codegen_api.errors import (
    AnswerCut,
    AnswerTooLong,
    GatewayError,
    ShuttingDown,
    Unavailable,
    UpstreamFailure,
    UpstreamRateLimited,
    UpstreamTimeout,
)
from codegen_api.following.portions import may_be_too_much
from codegen_api.following.read_queue import QueuedRead, ReadQueue
from codegen_api.following.rights import LIFETIME, TICK, Rights, loop_time, set_within
from codegen_api.following.troubles import EVERY, ReadTrouble, Troubles
from codegen_api.identity import Credential
from codegen_api.pace import Need
from codegen_api.runs import RunRef
from codegen_api.telemetry import Observer, Trace, detached_trace

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Notice:
    """The log is late, not lost: why, and in how many seconds the host is asked again."""

    code: str
    retry_in: float | None = None


RECOVERED = "recovered"

NOTED = 5.0
"""A log is read more often than it is noted, once in so many seconds, that the host has confirmed a right by that."""

LOOK_ROUND = 5.0
"""So many seconds before its end a right is renewed, and for as long the next attempt is waited for."""


@dataclass(eq=False, slots=True)
class Readers:
    """Who views one run, by credential, and asking the host with theirs. ``glance`` asks for next to nothing of it."""

    ref: RunRef
    rights: Rights
    turns: ReadQueue
    troubles: Troubles
    glance: Callable[[Credential], Awaitable[object]]
    observer: Observer = field(default_factory=Observer)
    trace: Trace = field(default_factory=lambda: detached_trace("follower"))
    """That of what is asked for all of them."""
    trouble: Notice | None = None
    listeners: set[Callable[[], None]] = field(default_factory=set)
    """Called when a viewer has something to hear that does not come through the broker."""
    _wanted: set[QueuedRead] = field(default_factory=set)
    _viewers: Counter[Credential] = field(default_factory=Counter)
    _shown: dict[Credential, float] = field(default_factory=dict)
    _refused: dict[Credential, GatewayError] = field(default_factory=dict)
    _reads: bool = False  # whether the log is read here, so that somebody is shown at each read
    _oldest: float = math.inf  # which right is renewed next, by when it was shown
    _stirred: asyncio.Event = field(default_factory=asyncio.Event)  # another one may be due before it
    _retirement: asyncio.TimerHandle | None = None
    _closed: bool = False

    @property
    def viewers(self) -> int:
        return self._viewers.total()

    def join(self, credential: Credential, confirmed: float, listener: Callable[[], None]) -> None:
        """Somebody views the run, which the host has shown them then. ``listener`` is as in ``listeners``."""
        self._stay()
        self.listeners.add(listener)
        self._refused.pop(credential, None)
        self._shown.setdefault(credential, confirmed)
        self._viewers[credential] += 1
        if self._viewers[credential] == 1 and self._shown[credential] < self._oldest:
            self._stirred.set()
        for turn in self._wanted:
            turn.offer((credential, self._shown[credential]))

    def leave(self, credential: Credential, listener: Callable[[], None]) -> None:
        self.listeners.discard(listener)
        self._viewers[credential] -= 1
        if self._viewers[credential] <= 0:
            del self._viewers[credential]
            self._shown.pop(credential, None)
            self._refused.pop(credential, None)
            self._withdraw(credential)

    def unless_joined(self, seconds: float, retire: Callable[[], None]) -> None:
        """Call ``retire`` when there was no viewer for so long, and it is not closed by then."""
        if not (self.viewers or self._closed):
            self._stay()
            self._retirement = asyncio.get_running_loop().call_later(seconds, retire)

    def _stay(self) -> None:
        if self._retirement is not None:
            self._retirement.cancel()

    def anybody(self) -> Credential | None:
        return next((credential for credential in self._viewers if credential not in self._refused), None)

    @property
    def room(self) -> float:
        """Seconds between reads without news that the budget of one of those who view the run has room for."""
        credential = self.anybody()
        return math.inf if credential is None else self.turns.queue(credential.digest).budget.quiet(loop_time())

    def views(self, credential: Credential) -> bool:
        """Whether somebody views the run with this credential, and may."""
        return credential in self._viewers and credential not in self._refused

    def refusal(self, credential: Credential) -> GatewayError | None:
        """Why viewers with this credential may not go on."""
        return self._refused.get(credential)

    async def ask(self, call: Callable[[Credential], Awaitable[T]], need: Need, *, once: bool = False) -> T:
        """The host's answer to somebody who views the run, however long that takes; ``need`` says how it is wanted.

        Raises:
            ShuttingDown: nobody will view this run any more.
            Unavailable, UpstreamFailure: only with ``once``, and told to the viewers already: the host did not answer.
        """
        return await self.ask_for(lambda credential, _: call(credential), need, 0, once=once)

    async def ask_for(
        self, call: Callable[[Credential, int], Awaitable[T]], need: Need, amount: int, *, once: bool = False
    ) -> T:
        """The same for so many entries. Where these may be too many, a single one is asked for in between.

        Raises:
            AnswerCut: besides, they are too many; or that one cannot be had, and the host is well otherwise.
        """
        most = amount
        async with aclosing(ReadTrouble(self.turns.outage, self._is_back)) as trouble:
            while True:
                with closing(self.turns.want(need, self._tell_of_waiting)) as turn:
                    credential = await self._granted(turn)
                    turn.begun()
                    try:
                        answer = await trouble.unless_past(call(credential, amount))
                    except UpstreamRateLimited as error:
                        self.troubles.met(self.ref, error.root_reason or error.code)
                        if once:  # the limit of another operation, for all that is known
                            raise
                        turn.refused(error.retry_after)
                    except GatewayError as error:
                        if amount > 1 and isinstance(error, AnswerCut):
                            raise
                        in_doubt = amount > 0 and may_be_too_much(error)
                        if not (in_doubt or isinstance(error, Unavailable | UpstreamFailure)):
                            self._refuse(credential, error)
                            continue
                        need = replace(need, since=loop_time())  # it has had its turn
                        turn.close()
                        self.troubles.met(self.ref, error.root_reason or error.code)
                        self.set_trouble(Notice("upstream_unavailable", round(trouble.met(error), 1)))
                        if once:
                            raise
                        back = await self._bear(trouble, error, single=in_doubt and amount == 1)
                        amount = 1 if trouble.proofs or (in_doubt and amount > 1 and not back) else most
                    else:
                        if answer is not None:
                            turn.accepted()
                            self.turns.outage.answered()
                            if amount:
                                self.observer.read(self.viewers)
                            self._confirm(credential)
                            return answer[0]
                        turn.close()
                        await trouble.settle()
                        amount = most

    async def aside(self, call: Callable[[Credential], Awaitable[T]]) -> T | None:
        """The host's answer to what nobody waits for, if there is room for it beside the reads, and it is one."""
        for credential in self._accepted():
            with self.turns.room(credential) as room:
                if not room:
                    continue
                try:
                    return await call(credential)
                except (Unavailable, UpstreamFailure):
                    return None  # there is time to ask again
                except GatewayError as error:
                    self._refuse(credential, error)
        return None

    async def _bear(self, trouble: ReadTrouble, error: GatewayError, *, single: bool) -> bool:
        """Wait until it is worth while to ask again; whether that is because the host has answered somebody.

        ``single``: it was asked for one entry, and that may be too much.

        Raises:
            AnswerCut: a single entry cannot be had, and the host has shown each time that it is well otherwise.
        """
        if not single:
            return await trouble.passed(at_once=isinstance(error, UpstreamTimeout))
        well = (isinstance(error, AnswerCut) or trouble.to_be_proven) and await self._is_back()
        trouble.proofs = trouble.proofs + 1 if well else 0
        if trouble.proofs >= _proofs_of(error):
            raise AnswerCut from error
        if well and isinstance(error, AnswerCut | UpstreamTimeout):
            return True
        return await trouble.passed()

    async def _is_back(self) -> bool:
        """Whether the host shows this log at all: asked for where there should be nothing, so that it costs little."""
        with closing(self.turns.want(Need(loop_time(), EVERY))) as turn:
            try:
                async with asyncio.timeout(EVERY - 1):
                    credential = await self._granted(turn)
                    turn.begun()
                    await self.glance(credential)
            except UpstreamRateLimited as error:
                turn.refused(error.retry_after)
            except (TimeoutError, Unavailable, UpstreamFailure):
                pass
            except GatewayError:
                return True  # it answers; what it says is for who asks
            else:
                turn.accepted()
                return True
            return False

    def doubt(self, digest: str) -> None:
        """Ask soon whether the credential with this digest may still see the run."""
        for credential in self._shown:
            if credential.digest == digest:
                self._shown[credential] = -math.inf
                self._stirred.set()

    def reading(self, *, here: bool) -> None:
        """Whether the log is read by this instance from now on."""
        self._reads = here
        self._stirred.set()

    async def renew(self, ask: Callable[[Credential], Awaitable[object]]) -> None:
        """Ask for the rights of those who were not shown to the host for long, for ever.

        Reading shows everybody in turn, but those with much else to do less often, and it does not wait for them.
        """
        while True:
            self._stirred.clear()
            self._oldest = math.inf
            for credential in self._accepted():
                await self._look_elsewhere(credential)
            accepted, long_ago = self._accepted(), loop_time() - LIFETIME + LOOK_ROUND
            if not accepted or (len(accepted) < 2 and self._reads):  # one alone is shown at each read
                await self._stirred.wait()
                continue
            due = [(each, self._shown[each]) for each in accepted if self._shown[each] <= long_ago]
            if not due:
                self._oldest = min(self._shown[each] for each in accepted)
                await set_within(self._oldest - long_ago + TICK, self._stirred)
                continue
            with closing(self.turns.want(Need(min(shown for _, shown in due), LIFETIME))) as turn:
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
                    self.troubles.met(self.ref, error.root_reason or error.code)
                    turn.close()
                    await asyncio.sleep(LOOK_ROUND)
                except GatewayError as error:
                    self._refuse(credential, error)
                else:
                    self._confirm(credential)

    async def _look_elsewhere(self, credential: Credential) -> None:
        """Another instance may have shown somebody to the host meanwhile."""
        shown = self._shown.get(credential, math.inf)
        if -math.inf < shown <= loop_time() - LIFETIME + LOOK_ROUND:
            confirmed = await self.rights.confirmed(credential, self.ref)
            if credential in self._shown:
                self._shown[credential] = max(self._shown[credential], confirmed)

    def tell(self) -> None:
        """Wake every viewer: there is something to hear."""
        for listener in list(self.listeners):
            listener()

    def close(self) -> None:
        """Let nobody wait for a viewer who will not come."""
        self._closed = True
        self._stay()
        self.troubles.gone(self.ref)
        for turn in self._wanted:
            turn.give_up()

    async def _granted(self, turn: QueuedRead) -> Credential:
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
        seconds = min((self.turns.closed(credential) for credential in self._accepted()), default=0.0)
        if seconds > 0:
            self.set_trouble(Notice("rate_limited", round(seconds, 1)))

    def _withdraw(self, credential: Credential) -> None:
        for turn in self._wanted:
            turn.withdraw(credential)

    def _accepted(self) -> list[Credential]:
        return [credential for credential in self._viewers if credential not in self._refused]

    def _confirm(self, credential: Credential) -> None:
        now, before = loop_time(), self._shown.get(credential, -math.inf)
        if now // NOTED > before // NOTED:
            self.rights.renew(credential, self.ref)
        self.troubles.over(self.ref)
        if credential in self._viewers:
            self._shown[credential] = now
        if self.trouble is not None and self.trouble.code != RECOVERED:
            self.set_trouble(Notice(RECOVERED))

    def _refuse(self, credential: Credential, error: GatewayError) -> None:
        """The host will not show this run to this credential (any more)."""
        self.rights.revoke(credential, self.ref)
        if credential in self._viewers:
            self._refused[credential] = error
            self._withdraw(credential)
            self.tell()

    def set_trouble(self, notice: Notice) -> None:
        """Have every viewer hear why the log is late, or that it goes on."""
        self.trouble = notice
        self.tell()


def _proofs_of(error: GatewayError) -> int:
    """How often the host must have been well beside this before it is sure that it will not pass."""
    if isinstance(error, AnswerTooLong):
        return 1
    return 2 if isinstance(error, AnswerCut | UpstreamTimeout) else 4
