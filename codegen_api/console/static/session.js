// Who is signed in. The token is in memory only, and in this tab's sessionStorage when somebody asks to stay signed in.
// With OpenID Connect this is a public client: authorization code with PKCE.

import { HERE, random } from "./api.js";

const KEPT = "codegen-console";
const LEFT = "codegen-console-left"; // what has to survive the way to the issuer and back

export const remembered = () => JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
export const forget = () => sessionStorage.removeItem(KEPT);
export const remember = (session) => sessionStorage.setItem(KEPT, JSON.stringify(session));
const base64url = (bytes) => btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

/** Go to the issuer. */
export async function leave(place, keep) {
  if (!crypto.subtle) throw new Error("Browsers sign in only from pages of https:// or of localhost.");
  const verifier = random() + random(), state = random();
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier));
  sessionStorage.setItem(LEFT, JSON.stringify({ verifier, state, keep, view: location.hash }));
  const url = new URL(place.authorization_endpoint);
  const asked = {
    response_type: "code", client_id: place.client_id, redirect_uri: HERE, scope: place.scope, state,
    audience: place.audience, // some issuers want it, the others pass over it
    code_challenge: base64url(new Uint8Array(digest)), code_challenge_method: "S256",
  };
  for (const [name, value] of Object.entries(asked)) url.searchParams.set(name, value);
  location.assign(url);
}

/** The session of somebody who comes back from the issuer; null for everybody else. */
export async function returned(config) {
  const query = new URLSearchParams(location.search);
  const left = JSON.parse(sessionStorage.getItem(LEFT) ?? "null");
  if (!query.has("state")) return null;
  sessionStorage.removeItem(LEFT);
  history.replaceState(null, "", HERE.pathname + (left?.view ?? "")); // the code is good once
  if (!left || left.state !== query.get("state")) throw new Error("This sign-in was not begun here. Please try again.");
  if (query.has("error"))
    throw new Error(`The sign-in was refused: ${query.get("error_description") ?? query.get("error")}`);
  if (!config.sign_in) throw new Error("The issuer cannot be reached. Please try again.");
  const body = new URLSearchParams({
    grant_type: "authorization_code", code: query.get("code") ?? "", redirect_uri: HERE,
    client_id: config.sign_in.client_id, code_verifier: left.verifier,
  });
  const answer = await fetch(config.sign_in.token_endpoint, { method: "POST", body, credentials: "omit" }).catch(() => null);
  const token = answer?.ok && (await answer.json().catch(() => null))?.access_token;
  if (!token) throw new Error("The issuer gave no token.");
  return { token, keep: left.keep };
}
