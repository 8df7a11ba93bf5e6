// Starting a run.

import { Problem, html, sendKey, useOrder, useTitle } from "./view.js";

export function Start({ api, link, go }) {
  const { busy, error, send, refuse } = useOrder(api);
  useTitle("New run");
  function submit(event) {
    event.preventDefault();
    const { prompt, repo_id, metadata, ...given } = Object.fromEntries([...new FormData(event.target)].filter(([, value]) => value.trim()));
    try {
      // hosts do not say in a list what was asked for
      const told = { source: "console", prompt: prompt?.trim().split("\n")[0].slice(0, 200), ...JSON.parse(metadata ?? "{}") };
      const body = { prompt, repo_id: repo_id && Number(repo_id), ...given, metadata: told };
      send("agent-runs", body, (run) => go(link("runs", {}, run.id)));
    } catch {
      refuse(new Error("The metadata cannot be read as JSON."));
    }
  }

  return html`<main class="page narrow" id="main">
    <div class="head"><h1>New run</h1></div>
    <form class="card" onSubmit=${submit}>
      <label for="prompt">What is the agent to do?</label>
      <textarea id="prompt" name="prompt" rows="7" required autofocus dir="auto" onKeyDown=${sendKey}
        placeholder="Find out why uploads over 10 MB fail, and fix it, with a test."></textarea>
      <details class="more"><summary>Repository, model, metadata</summary>
        <div class="fields">
          <div><label for="repo">Repository id</label><input id="repo" name="repo_id" inputmode="numeric" pattern="[0-9]+" /></div>
          <div><label for="model">Model</label><input id="model" name="model" placeholder="the default" /></div>
          <div><label for="type">Agent</label><select id="type" name="agent_type"><option value="">the default</option>
            <option>codegen</option><option>claude_code</option></select></div>
        </div>
        <label for="metadata">Metadata</label>
        <textarea id="metadata" name="metadata" class="mono" rows="3" spellcheck="false" placeholder=${'{"priority": "high"}'}></textarea>
      </details>
      <${Problem} error=${error} />
      <div class="send"><span class="fine"><kbd>Ctrl</kbd> or <kbd>⌘</kbd> + <kbd>Enter</kbd></span>
        <button class="primary" disabled=${busy}>${busy ? "Starting…" : "Start run"}</button></div>
    </form>
  </main>`;
}
