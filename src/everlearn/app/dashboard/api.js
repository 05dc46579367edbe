// Requests to the server that this page came from. Paths are relative, so a proxy may put the page under a prefix.

const PATIENCE = 20000; // milliseconds until an answer counts as lost; an order may wait 5 s for the learner

let csrf = "";

/** An answer that is not what was asked for, in the words of its problem document. */
export class Problem extends Error {
  constructor(status, title, detail = "") {
    const text = detail || title;
    super(text.charAt(0).toUpperCase() + text.slice(1));
    this.status = status;
    this.title = title;
    this.detail = detail;
  }
}

/** The value that the server wants to see again with every order of a logged-in page. */
export function remember(value) {
  csrf = value ?? "";
}

/** Ask; give {status, body, etag}. Raises Problem for anything but 2xx and 304. */
export async function ask(method, path, { body, etag, patience = PATIENCE } = {}) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["Content-Type"] = "application/json";
  if (method !== "GET" && csrf) headers["X-CSRF-Token"] = csrf;
  if (etag) headers["If-None-Match"] = etag;
  const options = { method, headers, cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(patience) };
  if (method !== "GET") options.body = JSON.stringify(body ?? {});
  let answer;
  let text;
  try {
    answer = await fetch(path, options);
    text = answer.status === 304 ? "" : await answer.text();
  } catch (error) {
    const late = error.name === "TimeoutError";
    throw new Problem(0, "No answer", late ? "The server took too long to answer." : "The server cannot be reached.");
  }
  const content = parsed(text);
  if (!answer.ok && answer.status !== 304) {
    throw new Problem(answer.status, content?.title ?? `Error ${answer.status}`, content?.detail ?? answer.statusText);
  }
  return { status: answer.status, body: content, etag: answer.headers.get("ETag") };
}

function parsed(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}

export const get = async (path) => (await ask("GET", path)).body;
export const post = async (path, body) => await ask("POST", path, { body });
export const remove = async (path, body) => await ask("DELETE", path, { body });
