// Texts of others, made harmless: control characters and marks that turn the direction of text become visible, and
// Markdown is rendered by marked and cleaned by DOMPurify, both loaded when they are first needed.

import { html, useEffect, useMemo, useState } from "./view.js";

const ESCAPES = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[@-Z\\^_])/g;
const SIGNS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g;
const MOST_MARKDOWN = 60_000;
const TOO_DEEP = /^(?:[ \t]*[>*+-]){20}|^ {200}|[[(*_]{200}/m;

/** Any value as text without signs that a terminal or the writing direction would obey. */
export function plain(value) {
  const text = typeof value === "string" ? value : value == null ? "" : JSON.stringify(value, null, 2);
  return text.replace(ESCAPES, "").replaceAll("\r\n", "\n").replace(SIGNS, (sign) => {
    const code = sign.charCodeAt(0);
    return code < 32 ? String.fromCharCode(0x2400 + code) : `\u2039U+${code.toString(16).toUpperCase().padStart(4, "0")}\u203a`;
  });
}

export const sizeOf = ({ length }) => (length < 1e6 ? `${Math.ceil(length / 1e3)} KB` : `${(length / 1e6).toFixed(1)} MB`);

const TAGS = "a b blockquote br code del em h1 h2 h3 h4 h5 h6 hr i li ol p pre s strong table tbody td th thead tr ul".split(" ");
let rendering;

async function load() {
  const [{ Marked }, { default: purify }] = await Promise.all([import("./vendor/marked.js"), import("./vendor/purify.js")]);
  const escape = (text) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
  const marked = new Marked({
    gfm: true,
    renderer: {
      html: ({ text }) => escape(text),
      // a picture would be fetched from wherever the text says
      image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
    },
  });
  purify.addHook("afterSanitizeAttributes", (node) => {
    if (node.tagName === "A") {
      node.setAttribute("target", "_blank");
      node.setAttribute("rel", "noopener noreferrer");
    }
    if (node.tagName === "PRE") node.setAttribute("tabindex", "0"); // what scrolls must be reachable with keys
  });
  const cleaning = { ALLOWED_TAGS: TAGS, ALLOWED_ATTR: ["href", "start"], ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    ALLOW_DATA_ATTR: false, ALLOW_ARIA_ATTR: false, RETURN_TRUSTED_TYPE: true };
  return (text) => purify.sanitize(marked.parse(text), cleaning);
}

const done = new Map();
export function Markdown({ text }) {
  const source = useMemo(() => (text.length > MOST_MARKDOWN ? null : plain(text)), [text]);
  const [shown, show] = useState(done.get(source));
  useEffect(() => {
    show(done.get(source));
    if (source === null || done.has(source) || TOO_DEEP.test(source)) return;
    let current = true;
    rendering ??= load();
    rendering.then((render) => {
      const made = render(source);
      if (done.size > 200) done.clear();
      done.set(source, made);
      if (current) show(made);
    }).catch(() => {}); // it stays a plain text
    return () => (current = false);
  }, [source]);
  return shown === undefined
    ? html`<${Long} text=${text} />`
    : html`<div class="markdown" dangerouslySetInnerHTML=${{ __html: shown }} />`;
}

const PIECE = 8_000;
/** A text of any length: the beginning, and more of it when asked. */
export function Long({ text, as = "div" }) {
  const [most, setMost] = useState(PIECE);
  const whole = useMemo(() => (typeof text === "string" ? text : plain(text)), [text]);
  const shown = useMemo(() => lines(plain(whole.slice(0, most))), [whole, most]);
  return html`<${as} class="long" tabindex=${as === "pre" ? 0 : undefined}>${shown}<//>
    ${whole.length > most && html`<button class="quiet" onClick=${() => setMost(most * 8)}>
      Show more (${sizeOf(whole)} in all)</button>`}`;
}

const DIFF = /^(?:diff --git|@@ |--- |\+\+\+ |\*\*\* )/m;

function lines(text) {
  if (!DIFF.test(text)) return text;
  return text.split(/(?<=\n)/).map((line) => {
    const kind = /^(?:@@|diff|---|\+\+\+|\*\*\*)/.test(line) ? "hunk" : { "+": "plus", "-": "minus" }[line[0]];
    return kind ? html`<span class=${kind}>${line}</span>` : line;
  });
}
