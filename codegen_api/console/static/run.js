// One run: what it is, its log as it comes, and what can be done with it.

import { Age, Outside, Problem, PullRequests, Status, copy, html, sendKey, titleOf, useEffect, useMemo, useOrder, useState, useTitle }
  from "./view.js";
import { BASE, LATE, pathOf } from "./api.js";
import { Entry, KINDS, textOf } from "./entry.js";
import { Log } from "./log.js";
import { RunLog } from "./runlog.js";
import { Markdown, plain } from "./text.js";

const SAID = { connecting: "Connecting", live: "Live", reconnecting: "Reconnecting", ended: "Complete", failed: "Stopped", ...LATE };

function Connection({ state, count }) {
  const [, tick] = useState(0);
  useEffect(() => {
    if (!state.until) return;
    const timer = setInterval(() => tick((each) => each + 1), 500);
    return () => clearInterval(timer);
  }, [state.until]);
  const seconds = state.until && Math.max(0, Math.ceil((state.until - Date.now()) / 1000));
  return html`<span class=${`connection ${state.name}`} role="status">
    <span>${SAID[state.name] ?? state.name}${state.message ? `: ${plain(state.message)}` : ""}</span>
    ${seconds !== undefined && html`<span aria-hidden="true">${seconds} s</span>`}
    <span class="count" aria-hidden="true">${count} ${count === 1 ? "entry" : "entries"}</span></span>`;
}

function Pending({ api, run, told }) {
  const [items, setItems] = useState([]);
  const [decided, setDecided] = useState(0);
  const [error, setError] = useState(null);
  const waits = run.run_status === "waiting" && (run.waiting_for ?? "something");
  useEffect(() => {
    setItems([]);
    if (waits) api.get(`${pathOf(run.id)}/pending`).then((found) => setItems(found.items), () => {}); // not every host says
  }, [waits, run.id, decided]);
  const decide = (item, decision, text) => api.post(`${pathOf(run.id)}/pending/${encodeURIComponent(item.id)}`, { decision, text })
    .then((run) => (told(run), setError(null), setDecided(decided + 1)), setError);
  const answer = (item) => (event) => {
    event.preventDefault();
    decide(item, item.reason === "question" ? "answer" : "reject", event.target.elements.text.value || undefined);
  };
  return items.map((item) => html`<section class="pending" key=${item.id} aria-label=${`The run waits for ${item.reason}`}>
    <p>${plain(item.text)}</p>
    ${item.input != null && html`<pre tabindex="0">${plain(item.input)}</pre>`}
    ${item.choices.map((choice) => html`<button onClick=${() => decide(item, "answer", choice)}>${plain(choice)}</button>`)}
    ${item.reason !== "question" && html`<button class="primary" onClick=${() => decide(item, "approve")}>Approve</button>`}
    <form class="inline" onSubmit=${answer(item)}>
      <input name="text" aria-label="Answer" placeholder=${item.reason === "question" ? "Answer" : "Why not (if you like)"} />
      <button>${item.reason === "question" ? "Answer" : "Reject"}</button></form>
    <${Problem} error=${error} />
  </section>`);
}

function Resume({ api, run, resumed }) {
  const { busy, error, send } = useOrder(api);
  const submit = (event) => {
    event.preventDefault();
    const form = event.target;
    send(`${pathOf(run.id)}/resume`, { prompt: form.elements.prompt.value }, (run) => (form.reset(), resumed(run)));
  };
  return html`<form class="resume" onSubmit=${submit}><${Problem} error=${error} />
    <textarea name="prompt" rows="2" required dir="auto" aria-label="What next" onKeyDown=${sendKey}
      placeholder=${run.ended ? "Go on with another prompt" : "Answer"}></textarea>
    <button class="primary" disabled=${busy}>${busy ? "Sending…" : "Resume"}</button></form>`;
}

function Cancel({ api, run, told }) {
  const [sure, setSure] = useState(false);
  const [error, setError] = useState(null);
  const cancel = () => api.post(`${pathOf(run.id)}/cancel`).then(told, setError).then(() => setSure(false));
  return html`${sure ? html`<button class="danger" autofocus onClick=${cancel} onBlur=${() => setSure(false)}>Really cancel</button>`
    : html`<button disabled=${error?.status === 501} onClick=${() => setSure(true)}>Cancel</button>`}<${Problem} error=${error} />`;
}

function download(log) {
  const url = URL.createObjectURL(new Blob(log.entries.map((entry) => `${entry.raw}\n`), { type: "application/x-ndjson" }));
  Object.assign(document.createElement("a"), { href: url, download: `run-${log.id}.ndjson` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

const curl = (api, id) => `curl -N '${new URL(`${pathOf(id)}/logs/stream`, BASE).href.replaceAll("'", "%27")}' \\
  -H "Authorization: Bearer $TOKEN"${api.organization ? ` -H 'X-Organization-ID: ${String(api.organization).replaceAll("'", "")}'` : ""}`;

const NONE = Object.fromEntries(Object.keys(KINDS).map((kind) => [kind, 0]));

export function RunView({ api, link, id, position }) {
  const [, changed] = useState(0);
  const [kinds, setKinds] = useState([]);
  const [words, setWords] = useState("");
  const [copied, setCopied] = useState(false);
  const [open, setOpen] = useState({ all: false, but: new Set() });
  const log = useMemo(() => new RunLog(api, id, () => changed((count) => count + 1)), [api, id]);
  useEffect(() => {
    log.start();
    // an ended run may have been resumed elsewhere
    const back = () => document.hidden || log.state.name !== "ended" || log.start();
    document.addEventListener("visibilitychange", back);
    // lists and single runs say more of a run than its log does
    api.get(pathOf(id)).then((run) => log.describe(run), () => {});
    return () => (document.removeEventListener("visibilitychange", back), log.stop());
  }, [log]);
  const drawn = useMemo(() => new Map(), [log]);
  useEffect(() => (setWords(""), setKinds([])), [position]); // a link shows its entry among the others
  const { run, state, entries } = log;
  const asked = useMemo(() => entries.find((entry) => entry.kind === "user"), [entries]);
  const title = titleOf({ id, ...run, prompt: asked && textOf(asked) });
  useTitle(`${run?.run_status ?? ""} ${title}`);
  useEffect(() => void (run?.ended && api.get(pathOf(id)).then((run) => log.describe(run), () => {})), [run?.ended]);
  const counts = useMemo(() => entries.reduce((sum, { kind }) => (sum[kind]++, sum), { ...NONE }), [entries]);
  const items = useMemo(() => {
    if (!words && !kinds.length) return entries;
    const wanted = JSON.stringify(words.toLowerCase()).slice(1, -1); // as it stands in JSON
    return entries.filter((entry) => (!kinds.length || kinds.includes(entry.kind)) && entry.raw.toLowerCase().includes(wanted));
  }, [entries, kinds, words]);
  const filtered = items !== entries;
  const answered = run?.result && entries.some((entry) => entry.kind === "answer" && entry.raw.includes(JSON.stringify(run.result).slice(1, -1)));
  const toggle = (each) => setOpen(({ all, but }) => ({ all, but: but.symmetricDifference(new Set([each])) }));
  const draw = (entry) => {
    const { position } = entry, isOpen = open.all !== open.but.has(position), active = !run?.ended;
    const last = drawn.get(position);
    if (last?.entry === entry && last.isOpen === isOpen && last.active === active) return last.view; // to scroll smoothly
    const view = html`<${Entry} entry=${entry} active=${active} href=${link("runs", {}, id, position)}
      open=${isOpen} toggle=${() => toggle(position)} />`;
    drawn.set(position, { entry, isOpen, active, view });
    return view;
  };
  const told = (run) => (log.describe(run), log.start());
  if (!run && state.name === "failed")
    return html`<main class="page narrow" id="main"><${Problem} error=${state}><p><a href=${link("runs")}>To the runs</a></p><//></main>`;
  return html`<main class="run" id="main">
    <div class="about-run">
      <div class="head"><h1 dir="auto">${title}</h1>
        <div class="actions">
          ${run && !run.ended && html`<${Cancel} api=${api} run=${run} told=${told} />`}
          <button onClick=${() => copy(curl(api, id)).then(() => (setCopied(true), setTimeout(setCopied, 2000, false)))}>
            <span role="status">${copied ? "Copied" : "Copy as curl"}</span></button>
          <button onClick=${() => download(log)} disabled=${!entries.length}>Download</button>
        </div></div>
      <p class="about">${run && html`<${Status} run=${run} />`}<span class="id">${id}</span>
        ${run && html`<${Age} at=${run.created_at} /><${PullRequests} run=${run} />
        ${run.web_url && html`<${Outside} href=${run.web_url}>Host's page<//>`}`}
        <${Connection} state=${state} count=${entries.length} /></p>
      <div class="bar" role="group" aria-label="What is shown of the log">
        <div class="chips">${Object.keys(KINDS).filter((kind) => counts[kind]).map((kind) => html`<button class="chip"
          aria-pressed=${kinds.includes(kind)} onClick=${() => setKinds(kinds.includes(kind) ? kinds.filter((each) => each !== kind)
          : [...kinds, kind])}>${KINDS[kind]} <small>${counts[kind]}</small></button>`)}</div>
        <button class="quiet" aria-pressed=${open.all} onClick=${() => setOpen({ all: !open.all, but: new Set() })}>Unfold all</button>
        <input class="search" type="search" placeholder="Search the log" aria-label="Search the log" value=${words}
          onInput=${(event) => setWords(event.target.value)} />
        ${filtered && html`<span class="fine" role="status">${items.length} of ${entries.length}</span>`}
      </div>
    </div>
    <div class="log-frame">
      <${Log} items=${items} draw=${draw} position=${position}>
        ${!items.length && html`<div class="empty"><p>${filtered ? "Nothing in the log matches." : state.name === "ended" ? "This run left no log."
          : "Nothing yet."}</p></div>`}
        ${run?.result && run.ended && !answered && !filtered && html`<section class="result" aria-label="Result"><${Markdown} text=${run.result} /></section>`}
      <//>
    </div>
    ${run && html`<div class="below"><${Pending} api=${api} run=${run} told=${told} />
      ${run.final ? html`<p class="fine">This run has ended for good: it cannot be resumed.</p>`
        : (run.ended || ["waiting", "paused"].includes(run.run_status)) && html`<${Resume} api=${api} run=${run} resumed=${told} />`}</div>`}
  </main>`;
}
