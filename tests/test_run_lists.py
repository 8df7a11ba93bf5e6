"""Lists of one's own runs at hosts whose ids are no numbers: nothing is lost, and nothing comes twice for nothing."""

import random
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen_api.gateway.ownership import Ownership
from codegen_api.upstreams import RunFilter
from tests.fakehost import FakeHost
from tests.test_ownership import SECRET, gateway_to, user
from tests.virtual import run

pytestmark = pytest.mark.virtual_time


class NamingHost(FakeHost):
    """One whose ids say nothing of when a run began."""

    def __init__(self, seed: int) -> None:
        super().__init__(with_totals=False)
        self.latency = 0
        self.draw = random.Random(seed)

    def run_id(self, text: str) -> str:
        return text

    def begin(self, name: str | None, count: int = 1) -> list[str]:
        """Runs that somebody starts by way of another process."""
        marks = Ownership([SECRET]).marks(user(name)) if name else {}
        names = [str(uuid.UUID(int=self.draw.getrandbits(128), version=4)) for _ in range(count)]
        for each in names:
            self.add(each, marks=marks)
        return names


@pytest.mark.wire("owner-lists")
@given(st.integers(0, 10**9), st.booleans(), st.booleans())
@settings(max_examples=30, deadline=None)
def test_everybody_gets_each_of_their_own_whatever_is_started_and_removed_meanwhile(
    seed: int, started: bool, removed: bool
) -> None:
    host = NamingHost(seed)
    draw = host.draw

    async def main() -> None:
        host.most = draw.choice([7, 40, 100])
        gateways = [gateway_to(host), gateway_to(host)]
        for _ in range(draw.randint(1, 14)):
            host.begin(draw.choice(["ann", "bob", None]), draw.choice([1, 2, 5, 90, 130, 400]))
        limit, status = draw.choice([1, 3, 20, 100]), draw.choice([None, "running"])
        for name in host.runs:
            if draw.random() < 0.3:
                host.runs[name].status = "COMPLETE"
        anns = Ownership([SECRET]).marks(user("ann"))
        own = [
            name
            for name in reversed(host.runs)
            if host.runs[name].marks == anns and (status is None or host.runs[name].status == "ACTIVE")
        ]
        there, seen = set(own), list[str]()
        skip: int | None = 0
        pages = 0
        while skip is not None:
            found = await draw.choice(gateways).list(user("ann"), "9", skip, limit, RunFilter(), status)
            seen += [each.ref.id for each in found.listing.items]
            skip, pages = found.next_skip, pages + 1
            assert pages < 2 * len(own) + 200
            if started and pages <= 12:
                host.begin("bob", draw.choice([0, 0, 1, 5, 60, 90, 300]))
            if removed and pages <= 12:
                names = list(host.runs)
                first = draw.randrange(len(names))
                for name in names[first : first + draw.choice([0, 1, 30, 60])]:
                    if draw.random() < 0.5:
                        there.discard(name)
                        del host.runs[name]
        assert there <= set(seen) <= set(own)
        if not started and not removed:
            assert seen == own
        for gateway in gateways:
            await gateway.aclose()

    run(main())
