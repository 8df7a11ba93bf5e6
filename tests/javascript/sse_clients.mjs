// node sse_clients.mjs CLIENT URL TOKEN: reads a live log with that client, as its documents say, until it ends; coming back
// after a cut is left to the client where it does so by itself. Prints the position of each entry as it comes.
import { createRequire } from "node:module";
import { fetchEventSource } from "@microsoft/fetch-event-source";
import { EventSource } from "eventsource";
import { createParser } from "eventsource-parser";

const require = createRequire(import.meta.url);
const [, , client, url, token] = process.argv;
const headers = { Authorization: `Bearer ${token}` };

setInterval(() => {}, 1000); // waits to come back, of which not every client holds the process up

let ended;
const end = new Promise((done) => (ended = done));

function heard(name, data) {
  if (name === "log") console.log(JSON.parse(data).position);
  if (name === "failure") throw new Error(data);
  if (name === "end" && data) ended(); // one client has an event of its own that is called so, and has none
}

function listen(source) {
  for (const name of ["log", "failure", "end"]) source.addEventListener(name, ({ data }) => heard(name, data));
  end.then(() => source.close());
}

class Authorized extends EventSource {
  constructor(address, options) {
    super(address, {
      ...options,
      fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, ...headers } }),
    });
  }
}

const clients = {
  eventsource: () => listen(new Authorized(url)),

  "@microsoft/fetch-event-source": () => {
    globalThis.window = globalThis; // it is made for pages
    globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
    const leaving = new AbortController();
    end.then(() => leaving.abort());
    return fetchEventSource(url, {
      headers,
      signal: leaving.signal,
      onmessage: ({ event, data }) => heard(event, data),
      onclose: () => {
        throw new Error("the stream has ended before the log has"); // else it takes any end for the last one
      },
    });
  },

  "event-source-polyfill": () => {
    const { EventSourcePolyfill } = require("event-source-polyfill");
    listen(new EventSourcePolyfill(url, { headers }));
  },

  "reconnecting-eventsource": () => {
    const { default: ReconnectingEventSource } = require("reconnecting-eventsource");
    listen(new ReconnectingEventSource(url, { eventSourceClass: Authorized, max_retry_time: 100 }));
  },

  "eventsource-parser": async () => {
    for (let last = "", over = false, wait = 1000; !over; await new Promise((wake) => setTimeout(wake, wait))) {
      const parser = createParser({
        onEvent: ({ event, id, data }) => {
          last = id ?? last;
          over ||= event === "end";
          heard(event, data);
        },
        onRetry: (milliseconds) => (wait = milliseconds),
      });
      try {
        const response = await fetch(url, { headers: { ...headers, ...(last && { "Last-Event-ID": last }) } });
        for await (const text of response.body.pipeThrough(new TextDecoderStream())) parser.feed(text);
      } catch (error) {
        if (!(error instanceof TypeError)) throw error; // the connection has broken
      }
    }
  },

  "launchdarkly-eventsource": () => {
    const { EventSource } = require("launchdarkly-eventsource");
    const source = new EventSource(url, { headers, initialRetryDelayMillis: 10 });
    source.addEventListener("error", () => {}); // else a cut ends the process
    listen(source);
  },
};

await Promise.all([clients[client](), end]);
process.exit(0);
