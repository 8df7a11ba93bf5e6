"""Following a run: one reader of the host's pages, any number of viewers of one live log.

``Follower`` reads and publishes, or as a ``Mirror`` knows what another instance reads. It asks the host on behalf of
its ``Readers``, in the order of the ``ReadQueue``. ``Subscriber`` is one viewer's position, ``Hub`` brings them
together, and ``Rights`` says who may view what. A ``Feed`` reads the list of runs, and a ``FeedViewer`` knows what one
viewer has of it.
Brokers only store; this package decides when to read, what to believe and when a log has ended.
"""

from codegen_api.following.feed import Described
from codegen_api.following.feed_viewer import (
    MOST_RUNS,
    FeedLeaving,
    FeedPosition,
    FeedUpdate,
    Listed,
    Removed,
    Shown,
)
from codegen_api.following.opening import Attendant
from codegen_api.following.read_queue import ReadQueue
from codegen_api.following.readers import Notice
from codegen_api.following.rights import Right, loop_time
from codegen_api.following.subscriber import Current, Ended, Leaving, Patrol, Quiet, Resync, Update
from codegen_api.positions import Position

__all__ = [
    "MOST_RUNS",
    "Attendant",
    "Current",
    "Described",
    "Ended",
    "FeedLeaving",
    "FeedPosition",
    "FeedUpdate",
    "Leaving",
    "Listed",
    "Notice",
    "Patrol",
    "Position",
    "Quiet",
    "ReadQueue",
    "Removed",
    "Resync",
    "Right",
    "Shown",
    "Update",
    "loop_time",
]
