"""What is done about turns in a transaction."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping

from codegen_api.errors import StoreFull
from codegen_api.stores import Agent, Busy, Conversation, Full, Overtaken, Turn, TurnState
from codegen_api.stores.sql.statements import (
    ACTIVE,
    LOCK,
    SITUATION,
    TOUCH,
    UNFINISHED,
    Insert,
    replacing,
    row_by,
    turns_of,
)
from codegen_api.stores.sql.tables import CONVERSATIONS, TURNS, Kind


def look(
    connection: Connection, key: Mapping[str, str], most: int
) -> tuple[Sequence[RowMapping], Sequence[RowMapping]]:
    """The row of a conversation, if it exists, and those of its turns, newest first."""
    found = connection.execute(row_by(CONVERSATIONS, *key), key).mappings().all()
    if not found:
        return (), ()
    asked = {"owner": key["owner"], "conversation": key["id"], "limit": most, "offset": 0}
    return found, connection.execute(turns_of(True, None, True), asked).mappings().all()


def put_conversation(
    connection: Connection,
    insert: Insert,
    turn: Mapping[str, Any],
    then: Conversation | None,
    row: Mapping[str, Any] | None,
) -> None:
    """Note in the conversation that there is another turn. With a ``row`` it is added, or put in the place of ``then``.
    Concurrent turns wait here.

    Raises:
        KeyError: it does not exist.
        Overtaken: it does, or is not as it was ``then``.
    """
    if row is None:
        its = {"its_owner": turn["owner"], "its_id": turn["conversation"], "now": turn["updated"]}
        if not connection.execute(TOUCH, its).rowcount:
            raise KeyError(turn["conversation"])
    elif then is None:
        if not connection.execute(insert, row).rowcount:
            raise Overtaken
    elif not replace_row(connection, CONVERSATIONS, turn["owner"], then, row):
        raise Overtaken


def add(connection: Connection, insert: Insert, row: Mapping[str, Any], queued_at_most: int, bytes_each: int) -> int:
    """Add a turn by its row, but for its number, which is returned. Raises what ``Store.add_turn`` does."""
    owner, conversation = row["owner"], row["conversation"]
    theirs = {"owner": owner, "conversation": conversation}
    there = connection.execute(SITUATION, theirs).one()
    if row["state"] == TurnState.QUEUED:
        if there.waiting >= queued_at_most:
            raise Full
    elif there.is_active or there.waiting:
        for unfinished in connection.execute(UNFINISHED, theirs).mappings():  # none, if it has ended since we looked
            raise Busy(TURNS.thing(unfinished))
    number = int(there.last) + 1
    if not connection.execute(insert, {**row, "number": number}).rowcount:
        raise KeyError(row["id"])
    require_room(int(there.held) + row["size"], bytes_each)
    return number


def change(connection: Connection, owner: str, then: Turn, row: Mapping[str, Any]) -> bool:
    """Put ``row`` in the place of ``then``, if that is still there. Raises what ``Store.change_turn`` does."""
    if TurnState(row["state"]).active and not then.state.active:
        theirs = {"owner": owner, "conversation": then.conversation}
        connection.execute(LOCK, theirs)
        there = connection.execute(row_by(TURNS, "owner", "id"), {"owner": owner, "id": then.id}).one_or_none()
        if there is not None and there.revision == then.revision:
            for other in connection.execute(ACTIVE, theirs).mappings():
                raise Busy(TURNS.thing(other))
    return replace_row(connection, TURNS, owner, then, row)


def replace_row(
    connection: Connection, kind: Kind[Any], owner: str, then: Agent | Conversation | Turn, row: Mapping[str, Any]
) -> bool:
    """Put ``row`` in the place of ``then``, if that is still there."""
    its = {"its_owner": owner, "its_id": then.id, "its_revision": then.revision}
    return connection.execute(replacing(kind), {**row, **its}).rowcount == 1


def require_room(held: int, bytes_each: int) -> None:
    """
    Raises:
        StoreFull: the owner of so many bytes exceeds their share.
    """
    if held > bytes_each:
        raise StoreFull(f"You keep as much here as you may, {bytes_each // 2**20} MiB: delete something.")
