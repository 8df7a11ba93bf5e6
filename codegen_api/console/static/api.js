// The native API, as docs/wire.md has it: requests, and the live log with everything that can come between.

export const HERE = new URL(".", location.href.replace(/[?#].*/s, ""));
export const BASE = new URL("..", HERE);
const SILENCE = 60_000; // longer than any pause between signs of life
const WAITS = [429, 502, 503, 504];
const TROUBLE = ["rate_limited", "upstream_unavailable"];
export const LATE = { lost: "Connection lost, trying again", rate_limited: "Waiting for the host's limit",
  upstream_unavailable: "The host does not answer, trying again" };

export class ApiError extends Error {
  constructor(status, body, headers) {
    super(body?.error ?? (status ? `The gateway answered with status ${status}.` : "The gateway cannot be reached."));
    Object.assign(this, { status, code: body?.code, details: body?.details, requestId: body?.request_id });
    this.retryAfter = Number(headers?.get("Retry-After")) || 0;
  }
}

/** What one person asks for, in one organization. `expired` is called when the token is no longer good. */
export class Api {
  constructor(token, organization, expired) {
    Object.assign(this, { token, organization, expired });
  }
  headers(more) {
    return { Authorization: `Bearer ${this.token}`, ...(this.organization && { "X-Organization-ID": this.organization }), ...more };
  }

  async fetch(path, { headers, ...how } = {}) {
    const options = { credentials: "omit", cache: "no-store", ...how, headers: this.headers(headers) };
    const failed = (error) => Promise.reject(how.signal?.aborted ? error : new ApiError(0));
    const response = await fetch(new URL(path, BASE), options).catch(failed);
    if (response.ok) return response;
    const error = new ApiError(response.status, await response.json().catch(() => null), response.headers);
    if (error.status === 401) this.expired?.(error);
    throw error;
  }
  async get(path, query = {}, signal = undefined) {
    const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
    return (await this.fetch(`${path}${given.length ? "?" : ""}${new URLSearchParams(given)}`, { signal })).json();
  }
  async post(path, body, key) {
    const headers = { "Content-Type": "application/json", ...(key && { "Idempotency-Key": key }) };
    return (await this.fetch(path, { method: "POST", headers, body: JSON.stringify(body ?? {}) })).json();
  }
}

export const pathOf = (id) => `agent-runs/${encodeURIComponent(id)}`;
export const random = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
const pause = (ms, signal) => new Promise((wake) => {
  const over = new AbortController();
  const end = () => (clearTimeout(timer), over.abort(), wake());
  const timer = setTimeout(end, ms);
  signal.addEventListener("abort", end, { signal: over.signal });
  window.addEventListener("online", end, { signal: over.signal });
});

/** The events of a stream, as they come. `alive` is called for everything that comes, signs of life included. */
async function* events(response, alive) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let text = "", seen = 0; ; ) {
      const { done, value } = await reader.read();
      if (done) return;
      alive();
      text += value;
      for (let end; (end = text.indexOf("\n\n", seen)) >= 0; seen = 0) {
        const lines = text.slice(0, end).split("\n");
        text = text.slice(end + 2);
        yield Object.fromEntries(lines.map((line) => line.split(/: (.*)/s, 2)));
      }
      seen = Math.max(0, text.length - 1);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Follow the stream at `path` from `at.position` on, which moves along, until it ends or `signal` says stop.
 *
 * `on.event(name, data, raw)` gets what happens, and `on.state({name, until?, message?})` how the connection is; `until`
 * is when the next attempt is due. */
export async function follow(api, path, at, on, signal) {
  let wait = 2000, failures = 0;
  while (!signal.aborted) {
    const silent = new AbortController();
    let timer, code = null;
    const alive = () => (clearTimeout(timer), (timer = setTimeout(() => silent.abort(), SILENCE)));
    const stop = () => silent.abort();
    signal.addEventListener("abort", stop, { once: true });
    try {
      if (!failures && !at.position.endsWith(".end")) on.state({ name: at.position ? "reconnecting" : "connecting" });
      alive();
      const headers = { Accept: "text/event-stream", ...(at.position && { "Last-Event-ID": at.position }) };
      const response = await api.fetch(path, { headers, signal: silent.signal });
      if (response.status === 204) return on.state({ name: "ended" });
      on.state({ name: "live" });
      for await (const frame of events(response, alive)) {
        if (frame.retry) wait = Number(frame.retry);
        if (frame.id) at.position = frame.id;
        if (!frame.event) continue;
        failures = 0;
        const data = JSON.parse(frame.data);
        on.event(frame.event, data, frame.data);
        if (frame.event === "end") return on.state({ name: "ended" });
        if (frame.event === "failure") return on.state({ name: "failed", message: data.error });
        if (frame.event === "notice") {
          code = data.code;
          if (code === "recovered") on.state({ name: "live" });
          else if (TROUBLE.includes(code))
            on.state({ name: code, until: data.retry_in === null ? undefined : Date.now() + data.retry_in * 1000 });
        }
      }
    } catch (error) {
      code = null;
      if (error.status && !WAITS.includes(error.status)) return on.state({ name: "failed", message: error.message });
      wait = Math.max(wait, (error.retryAfter ?? 0) * 1000);
    } finally {
      clearTimeout(timer);
      silent.abort();
      signal.removeEventListener("abort", stop);
    }
    if (signal.aborted) return;
    const ms = Math.min(wait * 1.5 ** failures++, 30_000) * (0.75 + Math.random() / 2);
    const name = TROUBLE.includes(code) ? code : "lost";
    if (code === "reconnect") failures = 0; // it was announced, and nothing is wrong
    else on.state({ name, until: Date.now() + ms });
    await pause(code === "reconnect" ? Math.min(wait, 1000) : ms, signal);
    wait = 2000;
  }
}
