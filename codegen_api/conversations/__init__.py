"""Agents, conversations and their turns, between the dialects that keep state and the gateway.

``Conversations`` is the door, ``Ask`` what a turn is to be, ``TurnCheckpoint`` a place in a conversation. What comes of
a turn comes as ``Progress``.
"""

from codegen_api.conversations.changing import change
from codegen_api.conversations.checkpoints import BEFORE, Stretch, TurnCheckpoint, end_of
from codegen_api.conversations.conversations import Conversations, checked, owner_of
from codegen_api.conversations.late_changes import START, Form, Slot, TurnChanges
from codegen_api.conversations.planning import GO_ON, Ask, new_id, text_of
from codegen_api.conversations.progress import CaughtUp, Progress, TurnEnded, TurnEntry
from codegen_api.conversations.prompts import with_transcript
from codegen_api.conversations.starting import heard_of, said_before
from codegen_api.conversations.turn_events import (
    ActionClosed,
    EntryAdded,
    EntryChanged,
    EntryRepeated,
    TurnEvent,
    TurnTeller,
)

__all__ = [
    "BEFORE",
    "GO_ON",
    "START",
    "ActionClosed",
    "Ask",
    "CaughtUp",
    "Conversations",
    "EntryAdded",
    "EntryChanged",
    "EntryRepeated",
    "Form",
    "Progress",
    "Slot",
    "Stretch",
    "TurnChanges",
    "TurnCheckpoint",
    "TurnEnded",
    "TurnEntry",
    "TurnEvent",
    "TurnTeller",
    "change",
    "checked",
    "end_of",
    "heard_of",
    "new_id",
    "owner_of",
    "said_before",
    "text_of",
    "with_transcript",
]
