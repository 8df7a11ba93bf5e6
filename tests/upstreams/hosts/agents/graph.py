"""A graph for LangGraph's servers: the model, and its tools, in turns. What a person has to say is an interrupt."""

import json
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, ToolMessage, convert_to_openai_messages
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from tests.upstreams.hosts.agents.asking import ask_model, done_alone, question_of


async def model(state: MessagesState) -> dict[str, list[AnyMessage]]:
    said = await ask_model(convert_to_openai_messages(state["messages"]))
    calls = [
        {"name": call["function"]["name"], "args": json.loads(call["function"]["arguments"]), "id": call["id"]}
        for call in said.get("tool_calls", [])
    ]
    return {"messages": [AIMessage(said["content"], tool_calls=calls)]}


async def tools(state: MessagesState) -> dict[str, list[AnyMessage]]:
    call: dict[str, Any] = state["messages"][-1].tool_calls[0]
    done = done_alone(call["name"], call["args"])
    if done is None:
        done = str(interrupt({"question": question_of(call["args"]), "tool": call["name"], "args": call["args"]}))
    return {"messages": [ToolMessage(done, tool_call_id=call["id"], name=call["name"])]}


def after_model(state: MessagesState) -> str:
    return "tools" if state["messages"][-1].tool_calls else END


builder = StateGraph(MessagesState)
builder.add_node("model", model)
builder.add_node("tools", tools)
builder.add_edge(START, "model")
builder.add_conditional_edges("model", after_model, ["tools", END])
builder.add_edge("tools", "model")
graph = builder.compile()
