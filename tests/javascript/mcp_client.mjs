// An MCP client, which speaks one of the two eras of the protocol.
// node mcp_client.mjs PACKAGE VERSION URL
// Reads commands from its input, a line of JSON each, and prints what came of each.
import { createInterface } from "node:readline";

const [name, version, url] = process.argv.slice(2);
const older = name === "@modelcontextprotocol/sdk";
const { Client } = await import(older ? `${name}/client/index.js` : name);
const { StreamableHTTPClientTransport } = await import(older ? `${name}/client/streamableHttp.js` : name);
const { createTaskSessionFromClient, resultFromTaskOutcome } = await import("@modelcontextprotocol/ext-tasks/client");

const INFO = { name: "tests", version: "1" };
const CAPABILITIES = { elicitation: { form: {} }, extensions: { "io.modelcontextprotocol/tasks": {} } };
const modern = version >= "2026";
let client, headers;

async function connect({ token }) {
  await client?.close();
  headers = { Authorization: `Bearer ${token}` };
  client = new Client(INFO, modern ? { versionNegotiation: { mode: "auto" } } : {});
  const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
  await client.connect(transport);
  return {
    version: older ? transport.protocolVersion : client.getNegotiatedProtocolVersion(),
    server: client.getServerVersion(),
    capabilities: client.getServerCapabilities(),
    instructions: client.getInstructions(),
  };
}

async function call({ name, arguments: args, progress, within }) {
  const seen = [];
  const how = { ...(progress && { onprogress: (each) => seen.push(each) }), ...(within && { timeout: 1000 * within }) };
  const asked = { name, arguments: args };
  const result = await (older ? client.callTool(asked, undefined, how) : client.callTool(asked, how));
  return { result, progress: seen };
}

// The SDK leaves to its host how tasks are asked for: it does not know their results.
let number = 0;
async function dispatch(request, { signal } = {}) {
  const { method, params } = request;
  const called = params.taskId ?? params.name;
  const answer = await fetch(url, {
    method: "POST",
    signal,
    headers: {
      ...headers,
      "Content-Type": "application/json",
      Accept: "application/json, text/event-stream",
      "MCP-Protocol-Version": version,
      "Mcp-Method": method,
      ...(called ? { "Mcp-Name": called } : {}),
    },
    body: JSON.stringify({ jsonrpc: "2.0", id: `task-${(number += 1)}`, ...request }),
  });
  const message = await answer.json();
  if (message.result?.pollIntervalMs) message.result.pollIntervalMs = 50; // a host waits for as long as it is told
  return message;
}

async function task({ name, arguments: args, answer }) {
  if (!modern) return { kind: "immediate", ...(await call({ name, arguments: args })) };
  return settled(answer, (session) => session.callTool(name, args));
}

const watch = ({ task, answer }) =>
  settled(answer, (session) =>
    session.resumeTask({ endpointId: url, generation: "v2", taskId: task, originalOperation: "tools/call" }),
  );

async function settled(answer, begin) {
  const asked = [];
  const states = [];
  const session = createTaskSessionFromClient(client, {
    endpointId: url,
    rawDispatch: dispatch,
    v2RequestFraming: { protocolVersion: version, clientInfo: INFO, clientCapabilities: CAPABILITIES },
    onInputRequest: ({ params }) => {
      asked.push(params);
      return { action: "accept", content: answer };
    },
  });
  try {
    const execution = await begin(session);
    const { outcome } = await execution.settle({
      signal: AbortSignal.timeout(60_000),
      onEvent: ({ task }) => {
        if (task && states.at(-1) !== task.status) states.push(task.status);
      },
    });
    return { kind: execution.kind, states, asked, result: resultFromTaskOutcome(outcome) };
  } finally {
    await session.close();
  }
}

const commands = {
  connect,
  tools: () => client.listTools(),
  templates: () => client.listResourceTemplates(),
  read: ({ uri }) => client.readResource({ uri }),
  call,
  task,
  watch,
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...rest } = JSON.parse(line);
  let came;
  try {
    came = { value: await commands[command](rest) };
  } catch (error) {
    came = { error: { code: error.code, message: [error.message, error.cause?.message].filter(Boolean).join(": ") } };
  }
  console.log(JSON.stringify(came));
}
