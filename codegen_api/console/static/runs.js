// The list of runs: newest first, a page at a time, as it changes.

import { Age, Problem, PullRequests, Status, html, titleOf, useEffect, useState, useTitle } from "./view.js";
import { LATE } from "./api.js";
import { watchRuns } from "./feed.js";

const STATUSES = ["", "running", "waiting", "pending", "paused", "completed", "failed", "cancelled"];
const SIZE = 25;

export function Runs({ api, link, query, go }) {
  const status = query.get("status") ?? "";
  const skips = (query.get("skip") ?? "").split(",").filter(Boolean); // of the pages before, to go back by
  const [page, setPage] = useState(null);
  const [state, setState] = useState({});
  const [wanted, setWanted] = useState("");
  useTitle("Runs");
  useEffect(() => {
    setPage(null);
    return watchRuns(api, { limit: SIZE, status, skip: skips.at(-1) }, { page: setPage, state: setState });
  }, [api, status, skips.at(-1)]);
  const error = state.message ? state : state.name in LATE ? { message: LATE[state.name] } : null;
  const to = (change) => link("runs", { status, skip: "", ...change });
  const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
  const textOf = (run) => `${run.id} ${titleOf(run)} ${run.run_status}`.toLowerCase();
  const shown = page?.items.filter((run) => words.every((word) => textOf(run).includes(word)));
  return html`<main class="page" id="main">
    <div class="head"><h1>Runs</h1><a class="button primary" href=${link("new")}>New run</a></div>
    <div class="bar">
      <nav class="chips" aria-label="Status">${STATUSES.map((each) => html`<a class="chip" href=${to({ status: each })}
        aria-current=${each === status ? "true" : undefined}>${each || "all"}</a>`)}</nav>
      <input class="search" type="search" placeholder="Filter this page" aria-label="Filter this page" value=${wanted}
        onInput=${(event) => setWanted(event.target.value)} />
    </div>
    <${Problem} error=${error}>${state.name !== "failed" && html`<p class="fine">Trying again by itself.</p>`}<//>
    ${!page && !error && html`<p class="empty">Loading…</p>`}
    ${shown && (shown.length ? html`<ul class="runs" aria-label="Runs">${shown.map((run) => html`<li key=${run.id}>
      <${Status} run=${run} />
      <a class="title" href=${link("runs", {}, run.id)} dir="auto">${titleOf(run)}</a>
      <span class="about"><span class="id">${run.id}</span><${PullRequests} run=${run} /><${Age} at=${run.created_at} /></span>
    </li>`)}</ul>` : html`<div class="empty"><p>${page.items.length ? "Nothing on this page matches."
      : status ? `No ${status} run.` : "No runs yet."}</p>
      ${!page.items.length && !status && html`<a class="button primary" href=${link("new")}>Start the first one</a>`}</div>`)}
    ${page && (skips.length > 0 || page.next_skip != null) && html`<nav class="pager" aria-label="Pages">
      ${skips.length > 0 ? html`<a class="button" rel="prev" href=${to({ skip: skips.slice(0, -1).join(",") })}>Newer</a>` : html`<span />`}
      ${page.next_skip != null && html`<a class="button" rel="next" href=${to({ skip: [...skips, page.next_skip].join(",") })}>Older</a>`}
    </nav>`}
  </main>`;
}
