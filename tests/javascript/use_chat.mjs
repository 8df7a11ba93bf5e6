// A page with `useChat`, without the page: the class behind the hook of each framework, with the state that hooks keep.
// node use_chat.mjs PACKAGE URL TOKEN CHAT
// Reads commands from its input, a line of JSON each, and prints an answer to each: what the page shows then.
import { createInterface } from "node:readline";

const [name, url, token, id] = process.argv.slice(2);
const { AbstractChat, DefaultChatTransport } = await import(name);

class State {
  status = "ready";
  error = undefined;
  messages = [];
  pushMessage = (message) => this.set(this.messages.concat(message));
  popMessage = () => this.set(this.messages.slice(0, -1));
  replaceMessage = (index, message) =>
    this.set([...this.messages.slice(0, index), this.snapshot(message), ...this.messages.slice(index + 1)]);
  snapshot = (thing) => structuredClone(thing);

  set(messages) {
    this.messages = messages;
    changed();
  }
}

class Chat extends AbstractChat {
  constructor(init) {
    super({ ...init, state: new State() });
  }
}

let base = url; // the gateway may come back at another address
const called = [];
const finished = [];
let changed = () => {};
const chat = new Chat({
  id,
  transport: new DefaultChatTransport({
    api: `${url}/ui/chat`,
    headers: { Authorization: `Bearer ${token}` },
    fetch: (asked, init) => fetch(asked.replace(url, base), init),
  }),
  onToolCall: ({ toolCall }) => called.push(toolCall.toolName),
  onFinish: ({ isError, isDisconnect, isAbort }) => finished.push({ isError, isDisconnect, isAbort }),
  onError: () => {},
});
let busy = Promise.resolve();

const shown = () => ({
  status: chat.status,
  error: chat.error?.message,
  messages: chat.messages,
  called,
  finished,
});

async function parts(count) {
  while ((chat.messages.at(-1)?.parts.length ?? 0) < count || chat.messages.at(-1).role !== "assistant")
    await new Promise((resolve) => (changed = resolve));
}

const commands = {
  send: ({ message, body }) => void (busy = chat.sendMessage(message, { body })),
  regenerate: ({ messageId }) => void (busy = chat.regenerate({ messageId })),
  resume: () => void (busy = chat.resumeStream()),
  load: ({ messages }) => void (chat.messages = messages),
  move: ({ url }) => void (base = url),
  leave: () => chat.stop(),
  parts: ({ count }) => parts(count),
  idle: () => busy,
  show: () => {},
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...given } = JSON.parse(line);
  await commands[command](given);
  console.log(JSON.stringify(shown()));
}
