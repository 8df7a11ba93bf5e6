// What people do with OpenAI's SDK, its agents, and the AI SDK's provider: stream, come back, go on, stop.
// node openai_clients.mjs CLIENT URL TOKEN TEXT
// Prints what came of it as JSON. TEXT is the beginning of what is said first in each run.
const [name, url, token, text] = process.argv.slice(2);
const baseURL = `${url}/v1`;
const scenario = (scenario) => ({ scenario });

async function all(stream) {
  const seen = [];
  for await (const each of stream) seen.push(each);
  return seen;
}

async function caught(promise) {
  const error = await promise.then(() => null, (error) => error);
  return error && { name: error.constructor.name, message: error.message, status: error.status, code: error.code };
}

const clients = {
  async openai() {
    const { OpenAI } = await import("openai");
    const { responses, ...client } = new OpenAI({ baseURL, apiKey: token });
    const model = "default";

    const live = await all(await responses.create({ model, input: `${text} 1`, stream: true, metadata: scenario("default") }));
    const { id } = live[0].response;
    const told = await all(await responses.retrieve(id, { stream: true }));
    const tails = [];
    for (const { sequence_number: starting_after } of told)
      tails.push(await all(await responses.retrieve(id, { stream: true, starting_after })));
    const middle = told[told.length >> 1].sequence_number;
    const helped = await responses.stream({ response_id: id, starting_after: middle }).finalResponse();

    const begun = await responses.create({ model, input: `${text} 2`, background: true, metadata: scenario("quick") });
    let first = begun;
    while (first.status === "in_progress") first = await responses.retrieve(begun.id);
    const second = await responses.create({ model, input: "Twice", previous_response_id: first.id });
    const said = (content) => ({ role: "user", content });
    const history = [said(`${text} 2`), ...first.output, said("Twice"), ...second.output, said("Thrice")];
    const third = await responses.create({ model, input: history });
    const fourth = await responses.create({ model, input: "Enough", conversation: third.conversation.id });

    const endless = await responses.create({ model, input: `${text} 3`, background: true, metadata: scenario("endless") });
    const busy = await caught(responses.create({ model, input: "Hush", previous_response_id: endless.id }));
    const stopped = await responses.cancel(endless.id);
    const failed = await responses.create({ model, input: `${text} 4`, metadata: scenario("fails") });

    const chat = client.chat.completions;
    const messages = [said(`${text} 5`)];
    const chunks = await all(await chat.create({ model, messages, stream: true, metadata: scenario("quick") }));
    const answer = chunks.map(({ choices }) => choices[0].delta.content ?? "").join("");
    messages.push({ role: "assistant", content: answer }, said("Why?"));
    const completion = await chat.create({ model, messages });
    return {
      live, told, tails, helped, begun, followed: [first, second, third, fourth], busy, stopped, failed,
      answer, completion, models: await all(client.models.list()),
    };
  },

  async agents() {
    const { OpenAI } = await import("openai");
    const { Agent, OpenAIResponsesModel, run, setTracingDisabled, user } = await import("@openai/agents");
    setTracingDisabled(true);
    const client = new OpenAI({ baseURL, apiKey: token });
    const agent = (name) =>
      new Agent({
        name: "Gardener",
        instructions: "Be brief.",
        model: new OpenAIResponsesModel(client, "default"),
        modelSettings: { providerData: { metadata: scenario(name) } },
      });
    const gardener = agent("quick");
    const streamed = await run(agent("default"), `${text} 1`, { stream: true });
    const events = (await all(streamed)).filter(({ type }) => type === "run_item_stream_event").map(({ name }) => name);
    await streamed.completed;
    const second = await run(gardener, "Twice", { previousResponseId: streamed.lastResponseId });

    const first = await run(gardener, `${text} 2`);
    const again = await run(gardener, [...first.history, user("Again")]);
    const { id: conversationId } = await client.conversations.create();
    const outputs = [];
    for (const said of [`${text} 3`, "Once more"]) outputs.push((await run(gardener, said, { conversationId })).finalOutput);
    const raised = await caught((async () => {
      const failing = await run(agent("fails"), `${text} 4`, { stream: true });
      await all(failing);
      await failing.completed;
    })());
    return {
      events, response: streamed.lastResponseId, output: streamed.finalOutput, raised,
      outputs: [second.finalOutput, first.finalOutput, again.finalOutput, ...outputs],
    };
  },

  async "ai-sdk"() {
    const { createOpenAI } = await import("@ai-sdk/openai");
    const { generateText, streamText } = await import("ai7");
    const provider = createOpenAI({ baseURL, apiKey: token });
    const model = provider.responses("default");
    const options = (name, more) => ({ openai: { metadata: scenario(name), ...more } });
    const streamed = streamText({ model, prompt: `${text} 1`, providerOptions: options("default") });
    const parts = (await all(streamed.fullStream)).map(({ type, toolName, providerExecuted, error }) => ({ type, toolName, providerExecuted, error: error && String(error) }));
    const { responseId } = (await streamed.providerMetadata).openai;

    const messages = [{ role: "user", content: `${text} 1` }, ...(await streamed.response).messages, { role: "user", content: "Twice" }];
    const second = await generateText({ model, messages });
    const previousResponseId = second.providerMetadata.openai.responseId;
    const third = await generateText({ model, prompt: "Thrice", providerOptions: options("quick", { previousResponseId }) });

    const chatting = streamText({ model: provider.chat("default"), prompt: `${text} 2`, providerOptions: options("quick") });
    const said = [{ role: "user", content: `${text} 2` }, ...(await chatting.response).messages, { role: "user", content: "Why?" }];
    const why = await generateText({ model: provider.chat("default"), messages: said });
    const failing = streamText({ model, prompt: `${text} 3`, providerOptions: options("fails"), onError() {} });
    return {
      parts, response: responseId, output: await streamed.text, outputs: [second.text, third.text, await chatting.text, why.text],
      failed: (await all(failing.fullStream)).map(({ type }) => type), reason: await failing.finishReason,
    };
  },
};

console.log(JSON.stringify(await clients[name]()));
