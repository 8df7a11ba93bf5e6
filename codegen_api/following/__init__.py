"""Following a run: one reader of the host's pages, any number of viewers of one live log.

``Follower`` reads and publishes, ``Readers`` are those on whose behalf it asks the host, ``ReadQueue`` says who may ask
it next, ``Subscriber`` is one viewer's position, ``Hub`` brings them together, ``Rights`` says who may view what, and
``StreamLimits`` how many at a time.
Brokers only store; when to read, what to believe and when a log has ended is decided here.
"""

from codegen_api.following.follower import Follower
from codegen_api.following.hub import Attendant, Hub
from codegen_api.following.portions import Portions, listing_of, may_be_too_much, page_of, proven
from codegen_api.following.read_queue import ReadQueue
from codegen_api.following.readers import Notice
from codegen_api.following.rights import Right, Rights, loop_time
from codegen_api.following.stream import Stream
from codegen_api.following.stream_limits import StreamLimits
from codegen_api.following.subscriber import (
    Current,
    Ended,
    Leaving,
    Patrol,
    Quiet,
    Resync,
    Subscriber,
    Update,
    close_running,
)
from codegen_api.positions import Position

__all__ = [
    "Attendant",
    "Current",
    "Ended",
    "Follower",
    "Hub",
    "Leaving",
    "Notice",
    "Patrol",
    "Portions",
    "Position",
    "Quiet",
    "ReadQueue",
    "Resync",
    "Right",
    "Rights",
    "Stream",
    "StreamLimits",
    "Subscriber",
    "Update",
    "close_running",
    "listing_of",
    "loop_time",
    "may_be_too_much",
    "page_of",
    "proven",
]
