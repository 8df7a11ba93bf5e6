// Where the list of runs comes from while somebody looks at it: from the feed of runs. It has the newest; when it says
// that something has changed, other pages are asked for again.

import { follow } from "./api.js";

const EVERY = 8000; // from one list to the next, at least

/** Calls `on.page` with each page of the list, and `on.state` as `follow` does, or with an error; the result stops it.
 * Nothing is asked while the page is hidden. */
export function watchRuns(api, { limit, status, skip }, on) {
  const newest = !status && !skip, at = { position: "" };
  let runs = new Map(), stop = null, timer = null; // runs that are yet to come are undefined
  const age = (run) => Date.parse(run?.created_at) || 0;
  const later = (ms) => (timer ??= setTimeout(load, Math.max(EVERY, ms)));
  async function load({ signal } = stop) {
    timer = null;
    const failed = (error) => signal.aborted || (on.state(error), later((error.retryAfter ?? 0) * 1000));
    await api.get("agent-runs", { limit, status, skip }, signal).then((page) => (on.page(page), on.state({ name: "live" })), failed);
  }
  function event(name, data) {
    const complete = [...runs.values()].every(Boolean);
    if (name === "list") runs = new Map(data.ids.map((id) => [id, runs.get(id)]));
    else if (name === "run") runs = runs.has(data.id) ? runs.set(data.id, data) : new Map([[data.id, data], ...runs]);
    else if (name === "removed") runs.delete(data.id);
    else return;
    if (!newest) return name === "list" ? load() : complete && later(0);
    const items = [...runs.values()].sort((a, b) => age(b) - age(a));
    if (items.every(Boolean)) on.page({ items: items.slice(0, limit), next_skip: items[limit] && limit });
  }
  function look() {
    stop?.abort(clearTimeout(timer));
    timer = stop = null;
    if (document.hidden) return;
    stop = new AbortController();
    follow(api, `agent-runs/stream?limit=${newest ? limit + 1 : 100}`, at, { event, state: on.state }, stop.signal);
  }
  document.addEventListener("visibilitychange", look);
  look();
  return () => (document.removeEventListener("visibilitychange", look), clearTimeout(timer), stop?.abort());
}
