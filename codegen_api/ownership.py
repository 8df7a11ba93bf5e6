"""Whose run is it, where the host cannot tell: where it is asked for everybody with the deployment's own token.

The owner is written into the run itself when it is created: a mark that only who has the secret key can make, and that
tells nobody else whom it stands for. The adapter keeps marks where clients neither set nor see them.
"""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cachetools import LRUCache

from codegen_api.errors import Forbidden, InsufficientScope, InvalidToken, NotFound, UpstreamError
from codegen_api.identity import ALL, READ, Caller, Principal, asker
from codegen_api.runs import Run, RunRef
from codegen_api.telemetry import logger

OWNER = "owner"
PURPOSE = b"codegen_api run owner, form 1"
"""What the key for marks is derived for; keys for other purposes come from the same secret with another label."""


@dataclass(frozen=True, slots=True)
class Deed:
    """Where a run is, and the mark of its owner; empty for a run without one. Neither ever changes."""

    organization: str
    owner: str


class Ownership:
    """The rules of what is whose. ``keys`` are the deployment's: the first makes marks, all are known."""

    def __init__(self, keys: Sequence[str] = (), *, at_most: int = 100_000) -> None:
        self._keys = [hmac.digest(key.encode(), PURPOSE, hashlib.sha256) for key in keys]
        self._deeds: LRUCache[RunRef, Deed] = LRUCache(at_most)

    def marks(self, caller: Caller) -> Mapping[str, str]:
        """What a new run of this caller is to bear."""
        return {OWNER: _mark(self._keys[0], caller.principal)} if caller.shared else {}

    def created(self, caller: Caller, run: Run) -> None:
        """A run was created with the caller's marks."""
        marks = self.marks(caller)
        if marks:
            self._deeds[run.ref] = Deed(run.ref.organization, marks[OWNER])
            if run.marks is not None and run.marks.get(OWNER) != marks[OWNER]:
                logger.warning("the host has not kept the owner of a new run: it will be lost with this process")

    def deed(self, ref: RunRef) -> Deed | None:
        """What is known of the run that is asked for as ``ref``."""
        return self._deeds.get(ref)

    def learned(self, ref: RunRef, run: Run) -> Deed:
        """What ``run`` says, which the host gave when it was asked for ``ref``."""
        if run.marks is None:  # this description leaves them out: nothing is learned, so nothing is kept
            return self._deeds.get(ref) or Deed(run.ref.organization, "")
        deed = self._deeds[ref] = Deed(run.ref.organization, run.marks.get(OWNER, ""))
        return deed

    def sees(self, caller: Caller, run: Run) -> bool:
        """Whether a list for this caller may hold this run."""
        return not caller.shared or self._allows(caller, self.learned(run.ref, run), READ)

    def owner_of(self, run: Run) -> str | None:
        """The mark of a run's owner; None when this description leaves it out."""
        return None if run.marks is None else run.marks.get(OWNER, "")

    def marks_of(self, caller: Caller) -> frozenset[str | None]:
        """What ``owner_of`` may give for a run of this caller."""
        return frozenset((None, *(_mark(key, caller.principal) for key in self._keys)))

    def seal(self, number: int) -> int:
        """``number``, of ``SEALABLE`` bits, as another that tells nothing of it, not even whether two are the same."""
        return _SEALED | _mixed(self._keys[0], number << _SPARE | secrets.randbits(_SPARE - _ZEROS) << _ZEROS)

    def unseal(self, sealed: int) -> int | None:
        """What was sealed; None for a number that does not come of ``seal``."""
        for key in self._keys if sealed >> 52 == 1 else []:
            number, spare = divmod(_mixed(key, sealed & (_SEALED - 1), back=True), 1 << _SPARE)
            if spare % (1 << _ZEROS) == 0:
                return number
        return None

    def require(self, caller: Caller, deed: Deed, scope: str) -> None:
        """
        Raises:
            NotFound: the run is not for this caller.
            InsufficientScope: they may see it, and that is all.
        """
        if self._allows(caller, deed, scope):
            return
        if self._allows(caller, deed, READ):
            raise InsufficientScope.lacking(scope + ALL)
        raise NotFound

    def _allows(self, caller: Caller, deed: Deed, scope: str) -> bool:
        if caller.organization not in (None, deed.organization):
            return False
        return scope + ALL in caller.scopes or (scope in caller.scopes and self._owns(caller, deed))

    def _owns(self, caller: Caller, deed: Deed) -> bool:
        found = deed.owner.encode(errors="replace")  # whatever the host made of it
        return any(hmac.compare_digest(_mark(key, caller.principal).encode(), found) for key in self._keys)


def _mark(key: bytes, principal: Principal) -> str:
    said = json.dumps([principal.authority, principal.user]).encode()
    return base64.urlsafe_b64encode(hmac.digest(key, said, hashlib.sha256)).rstrip(b"=").decode()


_SEALED = 1 << 52
"""Set in sealed numbers, which have 52 bits below it: readers of JSON take no whole number beyond 53 bits."""
_HALF = 26
_SPARE, _ZEROS = 15, 6
"""So many bits are beside what is sealed: random ones, and zeros as a check."""
SEALABLE = 2 * _HALF - _SPARE


def _mixed(key: bytes, number: int, *, back: bool = False) -> int:
    """``number``, of 52 bits, as another such number that only who has the key can turn ``back``: a Feistel network."""
    left, right = divmod(number, 1 << _HALF)
    for turn in reversed(range(6)) if back else range(6):
        if back:
            left, right = right ^ _scrambled(key, turn, left), left
        else:
            left, right = right, left ^ _scrambled(key, turn, right)
    return left << _HALF | right


def _scrambled(key: bytes, turn: int, half: int) -> int:
    said = b"place" + bytes([turn]) + half.to_bytes(4)
    return int.from_bytes(hmac.digest(key, said, hashlib.sha256)) % (1 << _HALF)


@contextmanager
def on_behalf_of(caller: Caller, *, of_a_run: bool = True) -> Iterator[None]:
    """What the host says to the deployment's own token is not for the caller: its refusal is the gateway's trouble,
    and a run that it does not have (``of_a_run``: or does not show) must look like one that is not theirs. What is
    asked inside is asked for them.
    """
    asker.set(caller)  # and stays so: this context serves nobody else
    try:
        yield
    except InvalidToken as error:
        if not caller.shared:
            raise
        refused = UpstreamError("The host does not accept the gateway's own token.")
        refused.may_have_acted = False
        raise refused from error
    except InsufficientScope:
        raise
    except (NotFound, Forbidden) as error:
        if not caller.shared or (not of_a_run and isinstance(error, Forbidden)):
            raise
        raise NotFound from error
