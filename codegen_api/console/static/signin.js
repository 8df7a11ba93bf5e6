// The view of somebody who is not signed in.

import { Problem, html, useState, useTitle } from "./view.js";
import { leave } from "./session.js";

export function SignIn({ config, enter, error, busy }) {
  const [token, setToken] = useState("");
  const [keep, setKeep] = useState(false);
  const [fault, setFault] = useState(null);
  useTitle("Sign in");
  const people = config.sandbox_tokens.map((each) => [each, each.split("-")[1]]);
  return html`<main class="entrance" id="main">
    <div class="card">
      <img src="icon.svg" alt="" width="44" height="44" />
      <h1>Sign in</h1>
      <p class="muted">Start agent runs, and watch them work.</p>
      <${Problem} error=${fault ?? error} />
      ${people.length > 0 && html`<section aria-label="Sandbox">
        <div class="people">${people.map(([token, name]) => html`<button class="primary" disabled=${busy}
          onClick=${() => enter({ token, keep })}>Continue as <b>${name}</b></button>`)}</div>
        <p class="fine">This is the sandbox: nothing leaves the machine.</p>
      </section>`}
      ${config.sign_in && html`<section>
        <button class="primary wide" disabled=${busy} onClick=${() => leave(config.sign_in, keep).catch(setFault)}>
          Sign in with ${new URL(config.sign_in.issuer).host}</button></section>`}
      ${config.sign_in_unavailable && html`<p class="problem">The place to sign in cannot be reached now. Reload the page
        to try again.</p>`}
      ${(people.length > 0 || config.sign_in) && html`<p class="or"><span>or with a token</span></p>`}
      <form onSubmit=${(event) => (event.preventDefault(), token.trim() && enter({ token: token.trim(), keep }))}>
        <label for="token">Token</label>
        <input id="token" type="password" autocomplete="off" spellcheck="false" value=${token} required
          placeholder="of the host, or of this gateway" onInput=${(event) => setToken(event.target.value)} />
        <button class=${people.length || config.sign_in ? "wide" : "primary wide"} disabled=${busy}>
          ${busy ? "Signing in…" : "Use token"}</button>
      </form>
      <label class="check"><input type="checkbox" checked=${keep} onChange=${(event) => setKeep(event.target.checked)} />
        <span>Stay signed in while this tab is open</span></label>
      <p class="fine">Otherwise the token is forgotten when the page is reloaded.</p>
    </div>
  </main>`;
}
