"""The readers of a run: the credentials of its viewers, with which the host is asked on their behalf.

Reads rotate over them, so that each credential is shown to the host again and again: if one loses the right to see the
run, that is noticed, and only its own viewers have to leave.
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

RENEW_EVERY = 5.0
"""Seconds between renewals of a right by reads of the log, which are more frequent."""

RENEW_EARLY = 5.0
"""Seconds before its end at which a right is renewed, and between attempts."""


@dataclass(eq=False, slots=True)
class Readers:
    """Asks the host with the credentials of one run's viewers. ``glance``: the cheapest request about the run."""

    ref: RunRef
    rights: Rights
    turns: ReadQueue
    troubles: Troubles
    glance: Callable[[Credential], Awaitable[object]]
    observer: Observer = field(default_factory=Observer)
    trace: Trace = field(default_factory=lambda: detached_trace("follower"))
    """The trace of what is asked for all of them."""
    trouble: Notice | None = None
    listeners: set[Callable[[], None]] = field(default_factory=set)
    """Called when there is news for viewers that does not come through the broker."""
    _wanted: set[QueuedRead] = field(default_factory=set)
    _viewers: Counter[Credential] = field(default_factory=Counter)
    _shown_at: dict[Credential, float] = field(default_factory=dict)
    _refused: dict[Credential, GatewayError] = field(default_factory=dict)
    _reads: bool = False  # whether the log is read here: each read confirms one right
    _oldest: float = math.inf  # when the credential was shown whose right is renewed next
    _rights_changed: asyncio.Event = field(default_factory=asyncio.Event)  # another right may be due before that
    _retirement: asyncio.TimerHandle | None = None
    _closed: bool = False

    @property
    def viewers(self) -> int:
        return self._viewers.total()

    def join(self, credential: Credential, confirmed: float, listener: Callable[[], None]) -> None:
        """Add a viewer, whose right the host ``confirmed`` at that time. ``listener`` is as in ``listeners``."""
        self._cancel_retirement()
        self.listeners.add(listener)
        self._refused.pop(credential, None)
        self._shown_at.setdefault(credential, confirmed)
        self._viewers[credential] += 1
        if self._viewers[credential] == 1 and self._shown_at[credential] < self._oldest:
            self._rights_changed.set()
        for turn in self._wanted:
            turn.offer((credential, self._shown_at[credential]))

    def leave(self, credential: Credential, listener: Callable[[], None]) -> None:
        self.listeners.discard(listener)
        self._viewers[credential] -= 1
        if self._viewers[credential] <= 0:
            del self._viewers[credential]
            self._shown_at.pop(credential, None)
            self._refused.pop(credential, None)
            self._withdraw(credential)

    def retire_after(self, seconds: float, retire: Callable[[], None]) -> None:
        """Call ``retire`` when there has been no viewer for so long, unless this is closed by then."""
        if not (self.viewers or self._closed):
            self._cancel_retirement()
            self._retirement = asyncio.get_running_loop().call_later(seconds, retire)

    def _cancel_retirement(self) -> None:
        if self._retirement is not None:
            self._retirement.cancel()

    def any_credential(self) -> Credential | None:
        return next((credential for credential in self._viewers if credential not in self._refused), None)

    @property
    def room(self) -> float:
        """Seconds between reads without news for which the budget of one of these credentials has room."""
        credential = self.any_credential()
        return math.inf if credential is None else self.turns.queue(credential.digest).budget.quiet(loop_time())

    def views(self, credential: Credential) -> bool:
        """Whether the run has a viewer with this credential that the host has not refused."""
        return credential in self._viewers and credential not in self._refused

    def refusal(self, credential: Credential) -> GatewayError | None:
        """Why viewers with this credential may not go on."""
        return self._refused.get(credential)

    async def ask(self, call: Callable[[Credential], Awaitable[T]], need: Need, *, once: bool = False) -> T:
        """The host's answer to one of the credentials, however long that takes; ``need`` says how urgent it is.

        Raises:
            ShuttingDown: nobody will view this run any more.
            Unavailable, UpstreamFailure: only with ``once``, after the viewers have been told: the host did not answer.
        """
        return await self.ask_for(lambda credential, _: call(credential), need, 0, once=once)

    async def ask_for(
        self, call: Callable[[Credential, int], Awaitable[T]], need: Need, amount: int, *, once: bool = False
    ) -> T:
        """As ``ask``, for ``amount`` entries. If that may be too many, a single one is asked for in between.

        Raises:
            AnswerCut: they are too many; or a single one cannot be read, though the host is well otherwise.
        """
        most = amount
        async with aclosing(ReadTrouble(self.turns.outage, self._is_back)) as trouble:
            while True:
                with closing(self.turns.want(need, self._note_waiting)) as turn:
                    credential = await self._granted(turn)
                    turn.begun()
                    try:
                        answer = await trouble.unless_past(call(credential, amount))
                    except UpstreamRateLimited as error:
                        self.troubles.met(self.ref, error.root_reason or error.code)
                        if once:  # it may be the limit of that operation alone
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
                        back = await self._wait_to_retry(trouble, error, single=in_doubt and amount == 1)
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
        """The host's answer, if there is room beside the reads and the host gives one: nobody waits for it."""
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

    async def _wait_to_retry(self, trouble: ReadTrouble, error: GatewayError, *, single: bool) -> bool:
        """Wait until it is worth asking again; returns whether that is because the host has answered other requests.

        ``single``: the request was for one entry, and even that may be too much.

        Raises:
            AnswerCut: a single entry cannot be read, and the host has proven each time that it is well otherwise.
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
        """Whether the host shows this log at all: asked behind its end, where the answer costs little."""
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
                return True  # it answers; a refusal concerns only this credential
            else:
                turn.accepted()
                return True
            return False

    def doubt(self, digest: str) -> None:
        """Ask soon whether the credential with this digest may still see the run."""
        for credential in self._shown_at:
            if credential.digest == digest:
                self._shown_at[credential] = -math.inf
                self._rights_changed.set()

    def reading(self, *, here: bool) -> None:
        """Note whether this instance reads the log from now on."""
        self._reads = here
        self._rights_changed.set()

    async def renew(self, ask: Callable[[Credential], Awaitable[object]]) -> None:
        """Renew rights that are about to end, for ever.

        Reads confirm the rights of all credentials in turn, but less often those that have other logs to read.
        """
        while True:
            self._rights_changed.clear()
            self._oldest = math.inf
            for credential in self._accepted():
                await self._check_elsewhere(credential)
            accepted, long_ago = self._accepted(), loop_time() - LIFETIME + RENEW_EARLY
            if not accepted or (len(accepted) < 2 and self._reads):  # a lone right is confirmed by each read
                await self._rights_changed.wait()
                continue
            due = [(each, self._shown_at[each]) for each in accepted if self._shown_at[each] <= long_ago]
            if not due:
                self._oldest = min(self._shown_at[each] for each in accepted)
                await set_within(self._oldest - long_ago + TICK, self._rights_changed)
                continue
            with closing(self.turns.want(Need(min(shown for _, shown in due), LIFETIME))) as turn:
                turn.offer(*due)
                try:
                    async with asyncio.timeout(RENEW_EARLY):  # then see which others are due
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
                    await asyncio.sleep(RENEW_EARLY)
                except GatewayError as error:
                    self._refuse(credential, error)
                else:
                    self._confirm(credential)

    async def _check_elsewhere(self, credential: Credential) -> None:
        """Take over the confirmation of a right that another instance may have got meanwhile."""
        shown = self._shown_at.get(credential, math.inf)
        if -math.inf < shown <= loop_time() - LIFETIME + RENEW_EARLY:
            confirmed = await self.rights.confirmed(credential, self.ref)
            if credential in self._shown_at:
                self._shown_at[credential] = max(self._shown_at[credential], confirmed)

    def notify(self) -> None:
        """Wake every viewer: there may be an update."""
        for listener in list(self.listeners):
            listener()

    def close(self) -> None:
        """End all waiting for turns: there will be no more viewers."""
        self._closed = True
        self._cancel_retirement()
        self.troubles.gone(self.ref)
        for turn in self._wanted:
            turn.give_up()

    async def _granted(self, turn: QueuedRead) -> Credential:
        if self._closed:
            raise ShuttingDown
        self._wanted.add(turn)
        try:
            turn.offer(*((credential, self._shown_at[credential]) for credential in self._accepted()))
            if not turn.ready and (self.trouble is None or self.trouble.code == RECOVERED):
                self._note_waiting()
            return await turn.granted()
        finally:
            self._wanted.discard(turn)

    def _note_waiting(self) -> None:
        """Notify viewers if the host accepts no requests from any of their credentials for a while."""
        seconds = min((self.turns.closed(credential) for credential in self._accepted()), default=0.0)
        if seconds > 0:
            self.set_trouble(Notice("rate_limited", round(seconds, 1)))

    def _withdraw(self, credential: Credential) -> None:
        for turn in self._wanted:
            turn.withdraw(credential)

    def _accepted(self) -> list[Credential]:
        return [credential for credential in self._viewers if credential not in self._refused]

    def _confirm(self, credential: Credential) -> None:
        now, before = loop_time(), self._shown_at.get(credential, -math.inf)
        if now // RENEW_EVERY > before // RENEW_EVERY:
            self.rights.renew(credential, self.ref)
        self.troubles.over(self.ref)
        if credential in self._viewers:
            self._shown_at[credential] = now
        if self.trouble is not None and self.trouble.code != RECOVERED:
            self.set_trouble(Notice(RECOVERED))

    def _refuse(self, credential: Credential, error: GatewayError) -> None:
        """Note that the host does not show this run to this credential (any more)."""
        self.rights.revoke(credential, self.ref)
        if credential in self._viewers:
            self._refused[credential] = error
            self._withdraw(credential)
            self.notify()

    def set_trouble(self, notice: Notice) -> None:
        """Notify every viewer why the log is late, or that it goes on."""
        self.trouble = notice
        self.notify()


def _proofs_of(error: GatewayError) -> int:
    """How often the host must prove to be well before this error counts as lasting."""
    if isinstance(error, AnswerTooLong):
        return 1
    return 2 if isinstance(error, AnswerCut | UpstreamTimeout) else 4
