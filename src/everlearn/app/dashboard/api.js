// Requests to the server of this page. Paths are relative, so a proxy may serve the page under a prefix.

const PATIENCE = 20000; // milliseconds until a reply counts as lost; a command may wait 5 s for the learner

let csrf = "";

/** An error reply, with the text of its problem document. */
export class Problem extends Error {
  constructor(status, title, detail = "") {
    const text = detail || title;
    super(text.charAt(0).toUpperCase() + text.slice(1));
    this.status = status;
    this.title = title;
    this.detail = detail;
  }
}

/** Store the CSRF value, which the server requires with every change by a logged-in page. */
export function remember(value) {
  csrf = value ?? "";
}

/** Send a request; return {status, body, etag}. Throws Problem for any status but 2xx and 304. */
export async function request(method, path, { body, etag, patience = PATIENCE } = {}) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["Content-Type"] = "application/json";
  if (method !== "GET" && csrf) headers["X-CSRF-Token"] = csrf;
  if (etag) headers["If-None-Match"] = etag;
  const options = { method, headers, cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(patience) };
  if (method !== "GET") options.body = JSON.stringify(body ?? {});
  let reply;
  let text;
  try {
    reply = await fetch(path, options);
    text = reply.status === 304 ? "" : await reply.text();
  } catch (error) {
    const late = error.name === "TimeoutError";
    throw new Problem(0, "No reply", late ? "The server took too long to answer." : "The server cannot be reached.");
  }
  const content = parsed(text);
  if (!reply.ok && reply.status !== 304) {
    throw new Problem(reply.status, content?.title ?? `Error ${reply.status}`, content?.detail ?? reply.statusText);
  }
  return { status: reply.status, body: content, etag: reply.headers.get("ETag") };
}

function parsed(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}

export const get = async (path, patience = PATIENCE) => (await request("GET", path, { patience })).body;
export const post = async (path, body) => await request("POST", path, { body });
export const remove = async (path, body) => await request("DELETE", path, { body });
