// The frame: who is signed in, in which organization, and which view the address names.
//
//   #/runs?status=failed    #/new    #/runs/12345    #/runs/12345/42 (an entry)    and for all of them ?org=323

import { Problem, html, render, useCallback, useEffect, useMemo, useState } from "./view.js";
import { Api, HERE } from "./api.js";
import { SignIn } from "./signin.js";
import { forget, remember, remembered, returned } from "./session.js";
import { plain } from "./text.js";

const THEME = "codegen-console-theme";
const VIEWS = {
  runs: () => import("./runs.js").then((module) => module.Runs),
  new: () => import("./start.js").then((module) => module.Start),
  run: () => import("./run.js").then((module) => module.RunView),
};

function parsed(hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  const [name, id, position] = path.split("/").map(decodeURIComponent);
  const view = name === "new" ? "new" : id ? "run" : "runs";
  return { view, id, position: Number(position) || 0, query: new URLSearchParams(query) };
}

function useAddress() {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    addEventListener("hashchange", () => setHash(location.hash)); // for as long as there is a page
  }, []);
  return useMemo(() => parsed(hash), [hash]);
}

function Theme() {
  const [theme, setTheme] = useState(localStorage.getItem(THEME) ?? "auto");
  useEffect(() => localStorage.setItem(THEME, (document.documentElement.dataset.theme = theme)), [theme]);
  const next = { auto: "light", light: "dark", dark: "auto" }[theme] ?? "auto";
  return html`<button class="quiet theme" onClick=${() => setTheme(next)} title=${`Colours: ${theme}`}
    aria-label=${`Colours: ${theme}. Change to ${next}`}><i class=${theme} /></button>`;
}

function App({ config, back, fault }) {
  const address = useAddress();
  const [session, setSession] = useState(back ?? remembered());
  const [error, setError] = useState(fault);
  const [me, setMe] = useState(null);
  const [organizations, setOrganizations] = useState([]);
  const [loaded, setLoaded] = useState({});
  const [org, setOrg] = useState(null);
  const leave = useCallback((why = null) => (forget(), setSession(null), setMe(null), setError(why)), []);
  useEffect(() => {
    if (!session) return;
    let current = true;
    const api = new Api(session.token);
    Promise.all([api.get("users/me"), api.get("organizations")]).then(([user, listed]) => {
      if (!current) return;
      if (session.keep) remember(session);
      setOrganizations(listed.items), setMe(user), setError(null);
    }).catch((error) => current && leave(error));
    return () => (current = false);
  }, [session]);
  const asked = address.query.get("org");
  const organization = asked ?? org ?? organizations[0]?.id ?? null;
  useEffect(() => void (asked && setOrg(asked)), [asked]);
  const api = useMemo(() => session && me && new Api(session.token, organization,
    () => leave(new Error("You are no longer signed in. Please sign in again."))), [session, me, organization]);
  useEffect(() => {
    let current = true;
    VIEWS[address.view]().then((shown) => current && setLoaded({ name: address.view, shown }), setError);
    return () => (current = false);
  }, [address.view]);
  const link = (name, query = {}, ...path) => {
    const given = Object.entries({ ...query, org: organization }).filter(([, value]) => value != null && value !== "");
    return `#/${[name, ...path].map(encodeURIComponent).join("/")}?${new URLSearchParams(given)}`;
  };
  const go = (hash) => (location.hash = hash);
  if (!session || !me)
    return html`<div class="corner"><${Theme} /></div>
      <${SignIn} config=${config} enter=${setSession} error=${error} busy=${!!session} />`;
  const known = organizations.some((each) => String(each.id) === String(organization));
  const skip = (event) => (event.preventDefault(), Object.assign(document.getElementById("main"), { tabIndex: -1 }).focus());
  return html`<a class="skip" href="#main" onClick=${skip}>Skip to the content</a>
    <header class="top">
      <a class="mark" href=${link("runs")} aria-label="Console"><img src="icon.svg" alt="" width="26" height="26" /></a>
      <nav aria-label="Views">${[["runs", "Runs"], ["new", "New run"]].map(([name, title]) => html`<a href=${link(name)}
        aria-current=${address.view === name ? "page" : undefined}>${title}</a>`)}<a href="../docs">API</a></nav>
      ${organizations.length > 0 && html`<select class="org" aria-label="Organization" value=${String(organization)}
        onChange=${(event) => go(`#/runs?org=${encodeURIComponent(event.target.value)}`)}>
        ${[...(known ? [] : [{ id: organization }]), ...organizations].map((each) =>
          html`<option value=${String(each.id)}>${plain(each.name ?? each.id)}</option>`)}</select>`}
      <${Theme} />
      <button class="quiet" onClick=${() => leave()} title=${`Signed in as ${plain(me.full_name ?? me.github_username ?? me.id)}`}>
        Sign out</button>
    </header>
    <${Problem} error=${error} />
    ${loaded.name === address.view && html`<${loaded.shown} key=${`${address.view} ${address.id} ${organization}`} api=${api} link=${link} go=${go}
      id=${address.id} position=${address.position} query=${address.query} />`}`;
}

const config = await fetch(new URL("config.json", HERE), { cache: "no-store" }).then((answer) => answer.json())
  .catch(() => ({ sandbox_tokens: [] }));
const [back, fault] = await returned(config).then((session) => [session, null], (error) => [null, error]);
const place = document.getElementById("app");
place.replaceChildren();
render(html`<${App} config=${config} back=${back} fault=${fault} />`, place);
