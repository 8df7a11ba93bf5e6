// Calls every method that the SDK has, and prints what came of each as JSON: "ok", or the status that was raised.
// node every_method.mjs URL TOKEN
import { Client } from "@langchain/langgraph-sdk";

const [apiUrl, apiKey] = process.argv.slice(2);
const client = new Client({ apiUrl, apiKey, callerOptions: { maxRetries: 0 } });
const results = {};
const said = {};

async function call(name, method) {
  try {
    said[name] = await method();
    results[name] = "ok";
  } catch (error) {
    results[name] = error.status ?? error.response?.status ?? String(error);
  }
  return said[name];
}

async function events(stream) {
  const seen = [];
  for await (const event of stream) seen.push(event);
  return seen;
}

const { assistants, threads, runs, store, crons } = client;
const input = { messages: [{ type: "human", content: "Write a haiku about logs" }] };
const metadata = { scenario: "quick" };

const assistant = await call("assistants.create", () =>
  assistants.create({ graphId: "agent", name: "Poet", metadata: { kind: "poet" } }),
);
const id = assistant.assistant_id;
await call("assistants.get", () => assistants.get(id));
await call("assistants.getGraph", () => assistants.getGraph(id));
await call("assistants.getSchemas", () => assistants.getSchemas(id));
await call("assistants.getSubgraphs", () => assistants.getSubgraphs(id));
await call("assistants.update", () => assistants.update(id, { name: "A poet" }));
await call("assistants.search", () => assistants.search({ metadata: { kind: "poet" } }));
await call("assistants.count", () => assistants.count({}));
await call("assistants.getVersions", () => assistants.getVersions(id));
await call("assistants.setLatest", () => assistants.setLatest(id, 2));

const thread = await call("threads.create", () => threads.create({ metadata: { project: "poems" } }));
const at = thread.thread_id;
await call("threads.get", () => threads.get(at));
await call("threads.update", () => threads.update(at, { metadata: { mood: "quiet" } }));
await call("threads.search", () => threads.search({ metadata: { mood: "quiet" } }));
await call("threads.count", () => threads.count({ metadata: { mood: "quiet" } }));
await call("threads.copy", () => threads.copy(at));
await call("threads.updateState", () => threads.updateState(at, { values: {} }));
await call("threads.patchState", () => threads.patchState(at, { mood: "loud" }));

const begun = [];
const streamed = await call("runs.stream", () =>
  events(
    runs.stream(at, "agent", {
      input,
      metadata,
      streamMode: ["values", "messages-tuple", "updates", "messages", "custom", "tasks", "checkpoints", "debug"],
      streamSubgraphs: true,
      streamResumable: true,
      onDisconnect: "continue",
      onRunCreated: (run) => begun.push(run),
    }),
  ),
);
const run = begun[0]?.run_id;
await call("runs.get", () => runs.get(at, run));
await call("runs.list", () => runs.list(at));
await call("runs.join", () => runs.join(at, run));
const joined = await call("runs.joinStream", () => events(runs.joinStream(at, run, { lastEventId: "-1" })));
await call("runs.cancel", () => runs.cancel(at, run));
await call("threads.getState", () => threads.getState(at));
await call("threads.getHistory", () => threads.getHistory(at));
await call("threads.joinStream", () => events(threads.joinStream(at)));
const created = await call("runs.create", () => runs.create(at, id, { input, metadata }));
await call("runs.wait after create", () => runs.join(at, created.run_id));
await call("runs.wait", () => runs.wait(null, "agent", { input, metadata }));
const batch = await call("runs.createBatch", () => runs.createBatch([{ assistantId: "agent", input, metadata }]));
await call("runs.cancelMany", () => runs.cancelMany({ threadId: batch[0].thread_id, runIds: [batch[0].run_id] }));
await call("runs.delete", () => runs.delete(at, created.run_id));

await call("store.putItem", () => store.putItem(["poems", "short"], "haiku", { lines: 3 }));
await call("store.getItem", () => store.getItem(["poems", "short"], "haiku"));
await call("store.searchItems", () => store.searchItems(["poems"], { filter: { lines: 3 } }));
await call("store.listNamespaces", () => store.listNamespaces({ prefix: ["poems"] }));
await call("store.deleteItem", () => store.deleteItem(["poems", "short"], "haiku"));

await call("crons.create", () => crons.create("agent", { schedule: "0 0 * * *", input }));
await call("crons.createForThread", () => crons.createForThread(at, "agent", { schedule: "0 0 * * *", input }));
await call("crons.update", () => crons.update("00000000-0000-0000-0000-000000000000", { schedule: "0 1 * * *" }));
await call("crons.search", () => crons.search({}));
await call("crons.count", () => crons.count({}));
await call("crons.delete", () => crons.delete("00000000-0000-0000-0000-000000000000"));
await call("threads.prune", () => threads.prune([batch[0].thread_id]));
await call("threads.delete", () => threads.delete(at));
await call("assistants.delete", () => assistants.delete(id));

console.log(
  JSON.stringify({
    results,
    begun,
    streamed: streamed?.map(({ event, id }) => [event, id]),
    joined: joined?.map(({ event, id }) => [event, id]),
    answer: said["runs.wait"]?.messages?.at(-1)?.content,
    counts: [said["assistants.count"], said["threads.count"]],
  }),
);
