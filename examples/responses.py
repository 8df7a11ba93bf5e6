"""Run the agent with OpenAI's SDK: python responses.py http://127.0.0.1:8000 sandbox-alice "Write a haiku about logs"

Starts it in the background and follows it live. After every disconnect it goes on behind the last event, and nothing is
lost. With the id of a response in place of the words it follows that one, also when it has ended.
"""

import sys
import time

import openai
from openai.types.responses import ResponseOutputItem

ENDS = ("response.completed", "response.failed", "response.incomplete")


def follow(client: openai.OpenAI, response_id: str) -> None:
    """Print what comes of a response, live, up to its end."""
    last = 0
    while True:
        try:
            for event in client.responses.retrieve(response_id, stream=True, starting_after=last):
                last = event.sequence_number
                if event.type == "response.output_item.done":
                    show(event.item)
                elif event.type in ENDS:
                    print(event.type.removeprefix("response."))
                    return
        except openai.APIConnectionError:
            pass
        time.sleep(2)


def show(item: ResponseOutputItem) -> None:
    match item.type:
        case "reasoning":
            print("thought:", *(part.text for part in item.summary))
        case "mcp_call":
            print("tool:", item.name, item.arguments)
        case "message":
            print(*(part.text for part in item.content if part.type == "output_text"))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python responses.py URL TOKEN WORDS|ID")
    url, token, words = sys.argv[1:]
    try:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=token) as sdk:
            if not words.startswith("resp_"):
                words = sdk.responses.create(model="default", input=words, background=True).id
                print(words)
            follow(sdk, words)
    except openai.APIStatusError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
