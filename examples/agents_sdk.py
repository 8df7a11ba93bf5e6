"""Talk to the agent with OpenAI's Agents SDK: python agents_sdk.py http://127.0.0.1:8000 sandbox-alice "First" "Then"

Each message goes on in the same run: the session sends what was said, and the gateway knows it by its ids.
"""

import asyncio
import sys

import openai
from agents import Agent, OpenAIResponsesModel, Runner, SQLiteSession, set_tracing_disabled
from agents.exceptions import AgentsException


async def talk(url: str, token: str, messages: list[str]) -> None:
    """Say one message after the other, and print what the agent does and answers."""
    set_tracing_disabled(True)  # which would send traces to OpenAI
    session = SQLiteSession("talk")
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=token) as sdk:
        agent = Agent(name="Agent", model=OpenAIResponsesModel("default", openai_client=sdk))
        for message in messages:
            running = Runner.run_streamed(agent, message, session=session)
            async for event in running.stream_events():
                if event.type == "run_item_stream_event" and event.name == "tool_called":
                    print("tool:", getattr(event.item.raw_item, "name", ""))
            print(running.final_output)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: python agents_sdk.py URL TOKEN MESSAGE...")
    try:
        asyncio.run(talk(sys.argv[1], sys.argv[2], sys.argv[3:]))
    except (AgentsException, openai.APIStatusError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
