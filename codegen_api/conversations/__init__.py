"""Agents, conversations and their turns: the layer between the gateway and the dialects that keep state.

``Conversations.of(caller)`` is the entry point. An ``Ask`` describes a new turn, a ``TurnCheckpoint`` is a place in a
conversation. Following a turn yields ``Progress``, which ``tell`` makes into a stream for one reader.
"""

from codegen_api.conversations.caller_store import TRIES, checked, owner_of
from codegen_api.conversations.checkpoints import BEFORE, Stretch, TurnCheckpoint, end_of, parent_of
from codegen_api.conversations.conversations import CallerConversations, Conversations, pending_of
from codegen_api.conversations.late_changes import START, EventLayout, Form, Slot, TurnChanges
from codegen_api.conversations.planning import GO_ON, Ask, new_id
from codegen_api.conversations.progress import CaughtUp, Progress, TurnEnded, TurnEntry
from codegen_api.conversations.prompts import (
    arguments_of,
    content_of,
    images_of,
    is_own_prompt,
    output_of,
    text_of,
    with_transcript,
)
from codegen_api.conversations.repeats import Once, TurnIds, heard_of, said_before, said_ids
from codegen_api.conversations.streams import PING, ReaderAhead, StreamLife, frames, tell, updates
from codegen_api.conversations.turn_events import (
    ActionClosed,
    EntryAdded,
    EntryChanged,
    EntryRepeated,
    HoldingTeller,
    RenderCache,
    TurnEvent,
    TurnTeller,
)

__all__ = [
    "BEFORE",
    "GO_ON",
    "PING",
    "START",
    "TRIES",
    "ActionClosed",
    "Ask",
    "CallerConversations",
    "CaughtUp",
    "Conversations",
    "EntryAdded",
    "EntryChanged",
    "EntryRepeated",
    "EventLayout",
    "Form",
    "HoldingTeller",
    "Once",
    "Progress",
    "ReaderAhead",
    "RenderCache",
    "Slot",
    "StreamLife",
    "Stretch",
    "TurnChanges",
    "TurnCheckpoint",
    "TurnEnded",
    "TurnEntry",
    "TurnEvent",
    "TurnIds",
    "TurnTeller",
    "arguments_of",
    "checked",
    "content_of",
    "end_of",
    "frames",
    "heard_of",
    "images_of",
    "is_own_prompt",
    "new_id",
    "output_of",
    "owner_of",
    "parent_of",
    "pending_of",
    "said_before",
    "said_ids",
    "tell",
    "text_of",
    "updates",
    "with_transcript",
]
