// One entry of a log, by its kind. Hosts have fields of their own: Codegen's are known, and of the others the text, the
// tool, and what it was given and gave back, are looked for where such hosts have them.

import { html, useErrorBoundary } from "./view.js";
import { Long, Markdown, plain, sizeOf } from "./text.js";

export const KINDS = { user: "Message", thought: "Thought", tool: "Tool", error: "Error", answer: "Answer", other: "Other" };
const DAY = new Intl.DateTimeFormat([], { dateStyle: "full", timeStyle: "medium" });
const HOUR = new Intl.DateTimeFormat([], { timeStyle: "medium", hourCycle: "h23" });
const WORDS = [
  ["error", /^ERROR$|UNREADABLE|_FAILED$|Error(Event)?$|failed$/i],
  ["user", /^(ROLE_)?USER|human|prompted$/i],
  ["answer", /FINAL_ANSWER|text\.ended$|^ai$|^assistant$|^(ROLE_)?agent$|MessageEvent|artifact/i],
  ["thought", /PLAN_EVALUATION|reason|thought|think/i],
  ["tool", /ACTION|tool|observation/i],
];

export function kindOf(data) {
  const word = String(data.message_type ?? data.role ?? data.kind ?? data.type ?? (data.artifactId ? "artifact" : ""));
  if (data.source === "user") return "user";
  if (data.tool_calls?.length) return "tool";
  return WORDS.find(([, words]) => words.test(word))?.[0] ?? (data.tool_name ? "tool" : "other");
}

const text = (value) => (Array.isArray(value) ? value.map((part) => part?.text ?? "").join("\n") : value?.message ?? value);
const flat = (value) => (Array.isArray(value) && value.every((part) => typeof part?.text === "string") ? text(value) : value);
const first = (...values) => values.map(text).find((value) => typeof value === "string" && value.trim());

export function textOf({ kind, data }) {
  const inner = data.data ?? {};
  if (kind === "user") return first(data.tool_input, data.tool_output?.content, data.content, inner.prompt?.text, data.parts,
    data.llm_message?.content, data.thought, data.observation) ?? "";
  return first(data.observation, data.thought, data.content, data.text, inner.text, inner.error, data.parts,
    data.llm_message?.content, data.message, data.detail) ?? "";
}

function callOf(data) {
  const inner = data.data ?? {};
  const call = data.tool_calls?.[0] ?? {}, called = data["gateway.call"];
  return {
    name: data.tool_name ?? inner.tool ?? called?.tool ?? call.name ?? data.name ?? data.type ?? data.kind ?? "tool",
    input: data.tool_input ?? inner.input ?? called?.input ?? call.args ?? data.action,
    output: flat(data.tool_output ?? inner.content ?? inner.output ?? inner.result ?? data.content),
    seen: flat(data.observation?.content ?? data.observation),
  };
}

const shortOf = (input) => {
  if (typeof input !== "object" || input === null) return plain(input).slice(0, 300);
  const telling = [input.command, input.path, input.query, input.title, input.message, ...Object.values(input)];
  return plain((telling.find((value) => typeof value === "string") ?? "").slice(0, 300)).split("\n")[0];
};
const empty = (value) => (value ?? "") === "";
const pick = (from, names) => names.map((name) => from?.[name]).find((value) => typeof value === "string");

/** Of what changes a file, the lines that go and those that come, as a diff. */
function Change({ input }) {
  const [old, made] = [pick(input, ["old", "old_string", "old_str"]), pick(input, ["new", "new_string", "new_str", "content"])];
  const marked = (value, sign) => (value ?? "").split("\n").map((line) => `${sign}${line}`);
  const shown = [...(old ? marked(old, "-") : []), ...(made ? marked(made, "+") : [])].join("\n");
  return html`<${Long} as="pre" text=${`@@ ${input.path ?? ""} @@\n${shown}`} />`;
}

function Value({ name, value }) {
  const inline = ["number", "boolean"].includes(typeof value) || (typeof value === "string" && /^.{0,80}$/.test(value));
  return html`<div class="field"><span class="name">${plain(name)}</span>
    ${inline ? html`<code>${plain(value)}</code>` : html`<${Long} as="pre" text=${value} />`}</div>`;
}

const CHANGED = ["old", "old_string", "old_str", "new", "new_string", "new_str", "content"];
const TERMINAL = ["command", "stdout", "stderr", "exit_code"];

function Values({ name, value, without = [] }) {
  if (empty(value)) return null;
  if (typeof value !== "object" || Array.isArray(value)) return html`<${Value} name=${name} value=${value} />`;
  return Object.entries(value).filter(([name, each]) => !without.includes(name) && !empty(each))
    .map(([name, value]) => html`<${Value} name=${name} value=${value} />`);
}

function Details({ call: { input, output, seen } }) {
  const isShell = typeof input?.command === "string";
  const isChange = pick(input, CHANGED) !== undefined;
  const shown = isShell && typeof seen === "string"; // on the screen
  const screen = isShell && [`$ ${input.command}`, output?.stdout, output?.stderr, shown && seen !== output?.stdout && seen];
  return html`<div class="details">
    ${isShell && html`<div class="terminal"><${Long} as="pre" text=${screen.filter(Boolean).join("\n")} /></div>`}
    ${isChange && html`<${Change} input=${input} />`}
    <${Values} name="input" value=${input} without=${isShell ? TERMINAL : isChange ? [...CHANGED, "path"] : []} />
    ${(!empty(output) || !empty(seen)) && html`<div class="results">
      <${Values} name="output" value=${output} without=${isShell ? TERMINAL : []} />
      ${!shown && html`<${Values} name="observation" value=${seen} />`}</div>`}
  </div>`;
}

function Tool({ entry, open, toggle, active }) {
  const call = callOf(entry.data);
  const thought = typeof entry.data.thought === "string" && entry.data.thought;
  const exit = call.output?.exit_code;
  const runs = active && "tool_output" in entry.data && empty(call.output) && empty(call.seen);
  return html`${thought && html`<${Long} text=${thought} />`}
    <button class="fold" aria-expanded=${open} onClick=${toggle}><b>${plain(call.name)}</b>
      <span class="short" dir="auto">${shortOf(call.input)}</span>
      ${runs && html`<span class="runs-now">running</span>`}
      ${exit !== undefined && html`<span class=${exit === 0 ? "exit" : "exit bad"}>exit ${plain(exit)}</span>`}
      ${!open && entry.raw.length > 20_000 && html`<span class="exit">${sizeOf(entry.raw)}</span>`}</button>
    ${open && html`<${Details} call=${call} />`}`;
}

function Body(props) {
  const { entry, open, toggle } = props;
  const said = textOf(entry);
  if (entry.kind === "tool") return html`<${Tool} ...${props} />`;
  if (entry.kind === "answer" && said) return html`<${Markdown} text=${said} />`;
  if (said) return html`${entry.kind === "error" && entry.data.tool_name && html`<b>${plain(entry.data.tool_name)}</b>`}
    <${Long} text=${said} />`;
  return html`<button class="fold" aria-expanded=${open} onClick=${toggle}>
    <b>${plain(entry.data.message_type ?? entry.data.type ?? entry.data.kind ?? "entry")}</b></button>
    ${open && html`<${Long} as="pre" text=${entry.data} />`}`;
}

export function Entry(props) {
  const { entry, href } = props;
  const [fault] = useErrorBoundary(); // whatever a host may send
  const at = entry.data.created_at ?? entry.data.timestamp;
  const time = typeof at === "string" && !Number.isNaN(Date.parse(at)) ? new Date(at) : null;
  return html`<a class="number" href=${href} aria-label=${`Link to entry ${entry.position}`}>${entry.position}</a>
    <span class="kind">${KINDS[entry.kind]}</span>
    <div class="body" dir="auto">${fault ? html`<${Long} text=${entry.raw} />` : html`<${Body} ...${props} />`}</div>
    ${time && html`<time datetime=${at} title=${DAY.format(time)}>${HOUR.format(time)}</time>`}`;
}
