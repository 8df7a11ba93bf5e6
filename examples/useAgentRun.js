// A React hook that follows a run live. It needs nothing but React, and reconnects by itself:
//
//   const { run, entries, state, error, watch } = useAgentRun("https://gateway.example", token, 12345);
//
// `run` is the run as last seen, `entries` its log. `state` is "connecting", "live", "ended", "failed" (see `error`), or
// what the log waits for, as in "rate_limited". Call `watch` after you have resumed a run that had ended.
import { useEffect, useRef, useState } from "react";

const START = { run: null, entries: [], state: "connecting", error: null };
const LATER = [429, 502, 503, 504];

function after(seen, events) {
  const now = { ...seen, entries: [...seen.entries] };
  for (const { event, id, data } of events) {
    if (event === "log" || event === "log.amended") now.entries[data.position - 1] = data;
    if (event === "status" || event === "end") now.run = data;
    if (event === "resync") now.entries.length = Math.min(now.entries.length, Number.parseInt(id));
    if (event === "failure") now.error = data.error;
    now.state = { end: "ended", failure: "failed", notice: data.code === "recovered" ? "live" : data.code }[event] ?? "live";
  }
  return now;
}

async function follow(url, token, at, signal, tell) {
  for (let wait = 2000; !signal.aborted; await new Promise((wake) => setTimeout(wake, wait))) {
    const headers = { Authorization: `Bearer ${token}`, ...(at.position && { "Last-Event-ID": at.position }) };
    const response = await fetch(url, { headers, signal, credentials: "omit" }).catch(() => null);
    if (response?.status === 204) return tell([{ event: "status", data: at.run }, { event: "end", data: at.run }]);
    if (response && !response.ok && !LATER.includes(response.status))
      throw new Error((await response.json().catch(() => null))?.error ?? `Status ${response.status}`);
    if (!response?.ok) {
      tell([{ event: "notice", data: { code: "connecting" } }]);
      continue;
    }
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = "", part; (part = await reader.read().catch(() => null)) && !part.done && !signal.aborted; ) {
      const frames = (text + part.value).split("\n\n");
      text = frames.pop(); // incomplete
      const events = frames.map((frame) => {
        const { retry, id, event, data } = Object.fromEntries(frame.split("\n").map((line) => line.split(/: ?(.*)/s, 2)));
        wait = Number(retry ?? wait);
        at.position = id ?? at.position;
        return { event, id, data: data && JSON.parse(data) };
      }).filter(({ event }) => event);
      if (events.length) tell(events);
      at.run = events.findLast(({ event }) => event === "status" || event === "end")?.data ?? at.run;
      if (events.some(({ event }) => event === "end" || event === "failure")) return;
    }
  }
}

export function useAgentRun(base, token, id) {
  const [seen, setSeen] = useState(START);
  const [turn, setTurn] = useState(0);
  const place = useRef({});
  const key = JSON.stringify([base, token, id]);
  useEffect(() => {
    if (place.current.key !== key) { // another run: from the start
      place.current = { key, position: "" };
      setSeen(START);
    }
    const stop = new AbortController();
    const tell = (events) => stop.signal.aborted || setSeen((seen) => after(seen, events));
    const url = `${base}/agent-runs/${encodeURIComponent(id)}/logs/stream`;
    follow(url, token, place.current, stop.signal, tell)
      .catch((error) => tell([{ event: "failure", data: { error: error.message } }]));
    return () => stop.abort();
  }, [key, turn]);
  return { ...seen, watch: () => setTurn((turn) => turn + 1) };
}
