// The view library, bound together, and the few parts that several views have in common.

import { h, render } from "./vendor/preact.js";
import { useCallback, useEffect, useErrorBoundary, useLayoutEffect, useMemo, useRef, useState } from "./vendor/hooks.js";
import htm from "./vendor/htm.js";
import { random } from "./api.js";
import { plain } from "./text.js";

export const html = htm.bind(h);
export { render, useCallback, useEffect, useErrorBoundary, useLayoutEffect, useMemo, useRef, useState };

const UNITS = [["year", 31_536_000], ["month", 2_592_000], ["day", 86_400], ["hour", 3_600], ["minute", 60]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });

export function ago(text, now = Date.now()) {
  const seconds = (Date.parse(text) - now) / 1000;
  if (Number.isNaN(seconds)) return "";
  const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? [];
  return unit ? relative.format(Math.trunc(seconds / size), unit) : "just now";
}

export const Age = ({ at }) =>
  at ? html`<time class="age" datetime=${at} title=${new Date(at).toLocaleString()}>${ago(at)}</time>` : null;

export const Status = ({ run }) => {
  const waits = run.waiting_for ? ` for ${run.waiting_for.replace("_", " ")}` : "";
  return html`<span class=${`status ${run.run_status}`} title=${`The host says: ${plain(run.status)}`}>
    ${run.run_status}${waits}</span>`;
};

/** A link to somewhere else, if it is one that a browser should follow. */
export const Outside = ({ href, children }) =>
  /^https?:\/\//i.test(href ?? "")
    ? html`<a class="outside" href=${href} target="_blank" rel="noopener noreferrer">${children}</a>`
    : html`<span>${children}</span>`;

export const PullRequests = ({ run }) =>
  (Array.isArray(run.github_pull_requests) ? run.github_pull_requests : []).map(
    (pull) => html`<${Outside} href=${pull?.url}>
      <span title=${plain(pull?.title)}>Pull request ${String(pull?.url).match(/\/(\d+)$/)?.[1] ?? plain(pull?.id)}</span><//>`,
  );

export const Problem = ({ error, children }) =>
  error ? html`<div class="problem" role="alert"><p>${plain(error.message)}</p>
    ${error.requestId && html`<p class="fine">${error.code}, request ${error.requestId}</p>`}${children}</div>` : null;

/** What somebody may call a run: what was asked for, if that is known, else the best that there is. */
export function titleOf(run) {
  const said = [run.prompt, run.metadata?.prompt, run.title, run.summary, run.result].find((text) => typeof text === "string" && text);
  return plain((said ?? "").trim().split("\n")[0].slice(0, 200)) || `Run ${run.id}`;
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // only pages of https:// and of localhost have a clipboard
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

export function useTitle(text) {
  useEffect(() => void (document.title = text ? `${text} · Console` : "Console"), [text]);
}

/** Cmd+Enter or Ctrl+Enter in a text area sends its form. */
export const sendKey = (event) => {
  if (event.key === "Enter" && (event.metaKey || event.ctrlKey)) event.currentTarget.form.requestSubmit();
};

/** Sending an order to the API. What is sent again after a fault has its first key, so that it has effect once. */
export function useOrder(api) {
  const [state, setState] = useState({ busy: false, error: null });
  const attempt = useRef({});
  const send = async (path, body, then) => {
    const text = JSON.stringify(body);
    if (attempt.current.text !== text) attempt.current = { text, key: random() };
    setState({ busy: true, error: null });
    const [run, error] = await api.post(path, body, attempt.current.key).then((run) => [run, null], (fault) => [null, fault]);
    setState({ busy: false, error });
    if (error) return;
    attempt.current = {};
    then(run);
  };
  return { ...state, send, refuse: (error) => setState({ busy: false, error }) };
}
