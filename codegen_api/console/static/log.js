// A list of any length, of which only what can be seen is in the page. Heights are guessed until they are measured; what
// the reader looks at stays where it is while something above it turns out higher, and while entries come.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./view.js";

const MARGIN = 800; // pixels above and below that are drawn, too
const NEAR = 48; // so near to the end, the newest entry is followed
const GUESS = { tool: 44, other: 44, error: 64, user: 72, thought: 64, answer: 220 };

export function Log({ items, draw, position, children }) {
  const box = useRef(null);
  const own = useRef({ heights: new Map(), anchor: null, follows: position === 0, top: 0, seen: 0 }).current;
  const [, redraw] = useState(0);
  const again = () => redraw((count) => count + 1);
  const offsets = new Float64Array(items.length + 1);
  for (let i = 0; i < items.length; i++)
    offsets[i + 1] = offsets[i] + (own.heights.get(items[i].position) ?? GUESS[items[i].kind]);
  const indexAt = (y) => {
    let low = 0, high = Math.max(0, items.length - 1);
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (offsets[middle] <= y) low = middle;
      else high = middle - 1;
    }
    return low;
  };
  const indexOf = (position) => (items.findIndex((item) => item.position >= position) + 1 || items.length) - 1;
  if (own.follows) own.seen = items.length;
  const height = box.current?.clientHeight ?? innerHeight;
  const end = offsets[items.length];
  const top = own.follows ? Math.max(0, end - height)
    : own.anchor && items.length ? offsets[indexOf(own.anchor.position)] + own.anchor.below : own.top;
  const from = indexAt(top - MARGIN), to = Math.min(items.length, indexAt(top + height + MARGIN) + 1);
  const look = () => {
    if (!box.current) return; // it scrolled, and then the page showed something else
    const { scrollTop, scrollHeight, clientHeight } = box.current;
    if (Math.abs(scrollTop - own.top) <= 1) return; // the movement was not the reader's
    Object.assign(own, { top: scrollTop, follows: scrollHeight - scrollTop - clientHeight < NEAR, seen: items.length });
    const first = indexAt(scrollTop);
    own.anchor = items.length ? { position: items[first].position, below: scrollTop - offsets[first] } : null;
    again();
  };
  // to keep what is looked at in its place, or to show the newest; never against a movement of the reader's own
  useLayoutEffect(() => {
    if (Math.abs(box.current.scrollTop - own.top) > 1 && !own.jump) return;
    own.jump = false;
    const wanted = own.follows ? box.current.scrollHeight : top;
    if (Math.abs(box.current.scrollTop - wanted) > 0.5) box.current.scrollTop = wanted;
    own.top = box.current.scrollTop;
  });
  const measured = useRef(null);
  measured.current ??= new ResizeObserver((seen) => {
    let changed = false;
    for (const { target } of seen) {
      const position = Number(target.dataset.position), height = target.offsetHeight;
      if (!target.isConnected || own.heights.get(position) === height) continue;
      own.heights.set(position, height);
      changed = true;
    }
    if (changed) again();
  });
  useEffect(() => {
    const boxed = new ResizeObserver(again);
    boxed.observe(box.current);
    return () => (boxed.disconnect(), measured.current.disconnect());
  }, []);
  const observe = (row) => row && measured.current.observe(row);
  const show = (index, below) => {
    Object.assign(own, { anchor: { position: items[index].position, below }, follows: false, jump: true });
    again();
  };
  const loaded = items.length > 0 && items.at(-1).position >= position;
  useEffect(() => void (position && loaded && show(indexOf(position), -90)), [position, loaded]);
  const newest = () => (own.follows = own.jump = true, again());
  useLayoutEffect(() => {
    const row = own.going && box.current.querySelector(`[data-position="${own.going}"]`);
    if (row) own.going = void row.focus({ preventScroll: true });
    // an entry with the focus that is no longer drawn leaves it to the log
    if (own.inside && document.activeElement === document.body) box.current.focus({ preventScroll: true });
    own.inside = box.current.contains(document.activeElement);
  });
  const step = (event) => {
    if (event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const row = event.target.closest("[data-position]");
    const by = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
    if (event.key === "End") newest();
    else if (event.key === "Home" && items.length) show(0, 0);
    else if (event.key === "Enter" && event.target === row) row.querySelector(".fold")?.click();
    else if (by && items.length) {
      const here = row ? indexOf(Number(row.dataset.position)) : own.follows && by < 0 ? items.length : indexAt(box.current.scrollTop) - by;
      const next = Math.max(0, Math.min(items.length - 1, here + by));
      own.going = items[next].position;
      const { scrollTop, clientHeight } = box.current;
      if (offsets[next] < scrollTop) show(next, 0);
      else if (offsets[next + 1] > scrollTop + clientHeight)
        show(next, Math.min(0, offsets[next + 1] - offsets[next] - clientHeight));
      else again();
    } else return;
    event.preventDefault();
  };
  return html`<div class="log" ref=${box} onScroll=${look} onKeyDown=${step} tabindex="0" role="feed" aria-label="Log">
    <div style=${{ height: `${offsets[from] ?? 0}px` }} />
    ${items.slice(from, to).map((item) => html`<article key=${item.position} ref=${observe} data-position=${item.position}
      tabindex="-1" aria-posinset=${item.position} aria-setsize="-1" aria-label=${`Entry ${item.position}`}
      class=${`entry ${item.kind}${item.position === position ? " named" : ""}`}>${draw(item)}</article>`)}
    <div style=${{ height: `${end - (offsets[to] ?? end)}px` }} />
    ${children}
  </div>${!own.follows && items.length > 0 && html`<button class="newest" onClick=${newest}>
    ${items.length > own.seen ? `${items.length - own.seen} new` : "Newest"} ↓</button>`}`;
}
