"""Following a run: one reader of the host's pages, any number of viewers of one live log.

``Follower`` reads and publishes, or as a ``Mirror`` knows what another instance reads; ``Readers`` are those on whose
behalf it asks the host, ``ReadQueue`` says who may ask it next, ``Subscriber`` is one viewer's position, ``Hub`` brings
them together, ``Rights`` says who may view what, and ``StreamLimits`` how many at a time. A ``Feed`` reads the list of
runs, and a ``FeedViewer`` knows what one viewer has of it.
Brokers only store; when to read, what to believe and when a log has ended is decided here.
"""

from codegen_api.following.feed import Described, Feed, held_descriptions
from codegen_api.following.feed_viewer import (
    MOST_RUNS,
    Choice,
    FeedLeaving,
    FeedPosition,
    FeedUpdate,
    FeedViewer,
    Listed,
    Removed,
    Shown,
)
from codegen_api.following.follower import Follower
from codegen_api.following.hub import Attendant, Hub
from codegen_api.following.portions import Portions, listing_of, may_be_too_much, page_of, proven
from codegen_api.following.read_failures import Troubles
from codegen_api.following.read_queue import ReadQueue
from codegen_api.following.readers import Notice, Readers
from codegen_api.following.rights import CommonRights, Right, Rights, loop_time
from codegen_api.following.stream import Stream
from codegen_api.following.stream_limits import OpenStreams, StreamLimits
from codegen_api.following.subscriber import (
    Current,
    Ended,
    Leaving,
    Patrol,
    Quiet,
    Resync,
    Subscriber,
    Update,
)
from codegen_api.positions import Position

__all__ = [
    "MOST_RUNS",
    "Attendant",
    "Choice",
    "CommonRights",
    "Current",
    "Described",
    "Ended",
    "Feed",
    "FeedLeaving",
    "FeedPosition",
    "FeedUpdate",
    "FeedViewer",
    "Follower",
    "Hub",
    "Leaving",
    "Listed",
    "Notice",
    "OpenStreams",
    "Patrol",
    "Portions",
    "Position",
    "Quiet",
    "ReadQueue",
    "Readers",
    "Removed",
    "Resync",
    "Right",
    "Rights",
    "Shown",
    "Stream",
    "StreamLimits",
    "Subscriber",
    "Troubles",
    "Update",
    "held_descriptions",
    "listing_of",
    "loop_time",
    "may_be_too_much",
    "page_of",
    "proven",
]
