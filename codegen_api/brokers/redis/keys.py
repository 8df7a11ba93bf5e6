"""What the keys of a run are called at Redis."""

import hashlib

from codegen_api.runs import RunRef, to_json

FORMAT = 1
"""Of what is written there. A version of the gateway that writes something else has keys of its own."""


class RunKeys:
    """The names of what Redis has of one run: all have the same hash tag."""

    def __init__(self, prefix: str, ref: RunRef) -> None:
        name = hashlib.sha256(to_json([ref.organization, ref.id])).hexdigest()[:32]
        self._run = f"{prefix}run.{FORMAT}:{{{name}}}:"
        self.lease, self.head, self.stream, self.resumed, self.cancelled, self.news = (
            f"{self._run}{each}" for each in ("lease", "head", "stream", "resumed", "cancelled", "news")
        )

    def page(self, base: str, number: int) -> str:
        """A page that was read again, of that stream."""
        return f"{self._run}page:{base}:{number}"

    def reading(self, number: int) -> str:
        """Taken by who reads that page again."""
        return f"{self._run}reading:{number}"


def orders(prefix: str) -> str:
    """The channel for resumes and cancels of all runs."""
    return f"{prefix}orders.{FORMAT}"
