"""Who owns a run, where the host cannot tell because all callers share the deployment's token.

The owner is written into the run when it is created, as a keyed mark: only holders of the secret key can make it, and
it reveals the user to nobody else. Without the key, anybody with access to the host's account could claim runs.
Adapters keep marks where clients can neither see nor set them.
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
"""Label for deriving the key of marks; other purposes derive theirs from the same secret under other labels."""


@dataclass(frozen=True, slots=True)
class OwnerRecord:
    """The organization and owner mark of a run, empty for a run without one. Neither ever changes."""

    organization: str
    owner: str


class Ownership:
    """The ownership rules. The first of ``keys`` makes marks; all are recognized, so that keys can be rotated."""

    def __init__(self, keys: Sequence[str] = (), *, at_most: int = 100_000) -> None:
        self._keys = [hmac.digest(key.encode(), PURPOSE, hashlib.sha256) for key in keys]
        self._records: LRUCache[RunRef, OwnerRecord] = LRUCache(at_most)

    def marks(self, caller: Caller) -> Mapping[str, str]:
        """The marks for a new run of this caller."""
        return {OWNER: _mark(self._keys[0], caller.principal)} if caller.shared else {}

    def created(self, caller: Caller, run: Run) -> None:
        """Remember a run just created with this caller's marks."""
        marks = self.marks(caller)
        if marks:
            self._records[run.ref] = OwnerRecord(run.ref.organization, marks[OWNER])
            if run.marks is not None and run.marks.get(OWNER) != marks[OWNER]:
                logger.warning("the host has not kept the owner of a new run: it will be lost with this process")

    def owner_record(self, ref: RunRef) -> OwnerRecord | None:
        """What is known about the run requested as ``ref``."""
        return self._records.get(ref)

    def remember(self, ref: RunRef, run: Run) -> OwnerRecord:
        """Remember the owner in ``run``, the host's answer for ``ref``."""
        if run.marks is None:  # this description omits marks: it proves nothing, so nothing is remembered
            return self._records.get(ref) or OwnerRecord(run.ref.organization, "")
        owner_record = self._records[ref] = OwnerRecord(run.ref.organization, run.marks.get(OWNER, ""))
        return owner_record

    def may_list(self, caller: Caller, run: Run) -> bool:
        """Whether a list for this caller may include this run."""
        return not caller.shared or self._allows(caller, self.remember(run.ref, run), READ)

    def owner_of(self, run: Run) -> str | None:
        """The owner mark of a run; None if this description omits marks."""
        return None if run.marks is None else run.marks.get(OWNER, "")

    def marks_of(self, caller: Caller) -> frozenset[str | None]:
        """The values of ``owner_of`` that this caller's runs can have."""
        return frozenset((None, *(_mark(key, caller.principal) for key in self._keys)))

    def seal(self, number: int) -> int:
        """Encrypt ``number``, of ``SEALABLE`` bits. Two results for one number do not reveal that they are the same."""
        return _SEALED | _permuted(self._keys[0], number << _SPARE | secrets.randbits(_SPARE - _ZEROS) << _ZEROS)

    def unseal(self, sealed: int) -> int | None:
        """The sealed number; None for one that was not made by ``seal``."""
        for key in self._keys if sealed >> 52 == 1 else []:
            number, spare = divmod(_permuted(key, sealed & (_SEALED - 1), back=True), 1 << _SPARE)
            if spare % (1 << _ZEROS) == 0:
                return number
        return None

    def require(self, caller: Caller, owner_record: OwnerRecord, scope: str) -> None:
        """
        Raises:
            NotFound: the run is not visible to this caller.
            InsufficientScope: the caller may see it, but no more.
        """
        if self._allows(caller, owner_record, scope):
            return
        if self._allows(caller, owner_record, READ):
            raise InsufficientScope.lacking(scope + ALL)
        raise NotFound

    def _allows(self, caller: Caller, owner_record: OwnerRecord, scope: str) -> bool:
        if caller.organization not in (None, owner_record.organization):
            return False
        return scope + ALL in caller.scopes or (scope in caller.scopes and self._owns(caller, owner_record))

    def _owns(self, caller: Caller, owner_record: OwnerRecord) -> bool:
        found = owner_record.owner.encode(errors="replace")  # the host may have altered it
        return any(hmac.compare_digest(_mark(key, caller.principal).encode(), found) for key in self._keys)


def _mark(key: bytes, principal: Principal) -> str:
    message = json.dumps([principal.authority, principal.user]).encode()
    return base64.urlsafe_b64encode(hmac.digest(key, message, hashlib.sha256)).rstrip(b"=").decode()


_SEALED = 1 << 52
"""Bit set in sealed numbers, above their 52 bits: JSON readers with doubles keep 53 bits exactly."""
_HALF = 26
_SPARE, _ZEROS = 15, 6
"""Bits appended to a number before encryption: random, but for the last ``_ZEROS``, which serve as a check."""
SEALABLE = 2 * _HALF - _SPARE


def _permuted(key: bytes, number: int, *, back: bool = False) -> int:
    """A keyed permutation of 52-bit numbers, or with ``back`` its inverse: a Feistel network."""
    left, right = divmod(number, 1 << _HALF)
    for turn in reversed(range(6)) if back else range(6):
        if back:
            left, right = right ^ _round(key, turn, left), left
        else:
            left, right = right, left ^ _round(key, turn, right)
    return left << _HALF | right


def _round(key: bytes, turn: int, half: int) -> int:
    message = b"place" + bytes([turn]) + half.to_bytes(4)
    return int.from_bytes(hmac.digest(key, message, hashlib.sha256)) % (1 << _HALF)


@contextmanager
def on_behalf_of(caller: Caller, *, of_a_run: bool = True) -> Iterator[None]:
    """Translate the host's errors for a shared caller, and count requests in the context as this caller's.

    A refusal of the deployment's own token is the gateway's problem, not the caller's. A run that the host does not
    have or (``of_a_run``) does not show must look like somebody else's run, or callers could probe for those.
    """
    asker.set(caller)  # never reset: this context serves only this request
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
