// Watch a run live, in a page or under Node 18 and newer:
//
//   node follow.js http://127.0.0.1:8000 sandbox-alice 12345
//
// EventSource cannot send the Authorization header, so this reads the stream with fetch. It reconnects after every
// disconnect with the last event id, and returns at the end of the log.

export async function* follow(url, token, position = "") {
  for (let wait = 2000; ; await new Promise((wake) => setTimeout(wake, wait))) {
    const headers = { Authorization: `Bearer ${token}`, ...(position && { "Last-Event-ID": position }) };
    const response = await fetch(url, { headers }).catch(() => null); // no connection: try again
    if (response?.status === 204) return; // nothing new since the end
    if (response && !response.ok && ![429, 502, 503, 504].includes(response.status)) throw new Error(await response.text());
    const reader = response?.ok && response.body.pipeThrough(new TextDecoderStream()).getReader();
    try {
      for (let text = "", part; reader && (part = await reader.read().catch(() => null)) && !part.done; ) {
        const frames = (text + part.value).split("\n\n");
        text = frames.pop(); // incomplete
        for (const frame of frames) {
          const { id, event, data, retry } = Object.fromEntries(frame.split("\n").map((line) => line.split(/: ?(.*)/)));
          if (retry) wait = Number(retry);
          if (id) position = id;
          if (event) yield { id, event, data: JSON.parse(data) };
          if (event === "end" || event === "failure") return;
        }
      }
    } finally {
      await reader?.cancel?.().catch(() => null);
    }
  }
}

if (globalThis.process?.argv?.[1]?.endsWith("follow.js")) {
  const [base, token, run, position] = process.argv.slice(2);
  if (!run) {
    console.error("usage: node follow.js URL TOKEN RUN [POSITION]");
    process.exit(2);
  }
  try {
    for await (const event of follow(`${base}/agent-runs/${run}/logs/stream`, token, position)) {
      console.log(JSON.stringify(event));
    }
  } catch (error) {
    console.error(error.message);
    process.exit(1);
  }
}
