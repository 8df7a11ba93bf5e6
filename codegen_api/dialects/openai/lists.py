"""Lists, as this API pages them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from codegen_api.dialects.openai.items import Item
from codegen_api.errors import NotFound
from codegen_api.runs import Json


class ListQuery(BaseModel):
    """Which part of a list, and in which order."""

    limit: int = Field(20, ge=1, le=100, description="At most so many.")
    order: Literal["asc", "desc"] = Field("desc", description="The oldest first, or the newest.")
    after: Annotated[str, Field(max_length=600)] | None = Field(None, description="The id behind which to go on.")
    include: Any = Field(None, description="Has no meaning here, and is ignored.")


def listed(items: Sequence[Item], query: ListQuery) -> dict[str, Json]:
    """A part of ``items``, which are the oldest first.

    Raises:
        NotFound: the item behind which to go on is not among them.
    """
    ordered = list(items if query.order == "asc" else items[::-1])
    ids = [item["id"] for item in ordered]
    if query.after is not None and query.after not in ids:
        raise NotFound.named("Item", query.after)
    begin = 0 if query.after is None else ids.index(query.after) + 1
    end = begin + query.limit
    ends: Item = {"first_id": next(iter(ids[begin:end]), None), "last_id": next(iter(ids[begin:end][::-1]), None)}
    return {"object": "list", "data": ordered[begin:end], **ends, "has_more": end < len(ordered)}
