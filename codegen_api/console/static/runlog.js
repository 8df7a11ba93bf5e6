// One run as far as it has come: its description, its log, and how the connection is.

import { follow, pathOf } from "./api.js";
import { kindOf } from "./entry.js";

const TOGETHER = 50; // milliseconds in which changes become one

export class RunLog {
  entries = [];
  run = null;
  state = { name: "connecting" };
  #at = { position: "" };
  #stop = null;
  #timer = null;
  constructor(api, id, changed) {
    Object.assign(this, { api, id, changed });
  }
  /** Begin, or begin again behind the last entry. What follows already goes on. */
  start() {
    if (this.#stop) return;
    const stop = (this.#stop = new AbortController());
    const on = { event: (...event) => this.#event(...event), state: (state) => this.#become({ state }) };
    follow(this.api, `${pathOf(this.id)}/logs/stream`, this.#at, on, stop.signal).finally(() => {
      if (this.#stop === stop) this.#stop = null;
    });
  }
  stop() {
    this.#stop?.abort();
    this.#stop = null;
    clearTimeout(this.#timer);
  }
  describe(run) {
    this.#become({ run: { ...this.run, waiting_for: undefined, ...run } });
  }
  #event(name, data, raw) {
    if (name === "log" || name === "log.amended")
      this.entries[data.position - 1] = { position: data.position, data, raw, kind: kindOf(data) };
    else if (name === "resync") this.entries.length = Math.min(this.entries.length, Number.parseInt(this.#at.position) || 0);
    else if (name === "status" || name === "end") this.run = { ...this.run, waiting_for: undefined, ...data };
    this.#become({});
  }

  #become(change) {
    Object.assign(this, change);
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.entries = [...this.entries]; // whoever compares sees that it has changed
      this.changed();
    }, TOGETHER);
  }
}
