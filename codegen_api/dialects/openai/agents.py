"""What a client means by the name of a model."""

from codegen_api.conversations import CallerConversations
from codegen_api.stores import Agent

DEFAULT = "default"
"""The model that leaves the choice to the host."""


async def agent_for(conversations: CallerConversations, model: str | None) -> tuple[Agent | None, str | None]:
    """The agent of the caller that has this name for its id, else the model of that name at the host."""
    if model in (None, "", DEFAULT):
        return None, None
    agent = await conversations.agent(str(model))
    if agent is None or agent.archived:
        return None, model
    return agent, None
