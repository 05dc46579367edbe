// The server's status, requested twice a second while the page is visible, and how fresh it is.

import { request } from "./api.js";

const EVERY = 500; // milliseconds between two requests
const QUIET = 2000; // milliseconds without a new status after which the learner counts as silent
const LOST = 2; // failed requests after which the server counts as gone

/**
 * Watch the status: call `onChange(feed)` with {status, link, problem, silent} after every reply and every failure.
 * `link` is "loading", "live", "quiet" (the learner is silent), "gone", or "locked" (log in first: no further request
 * is sent until `now` is called). Without `allowed` it starts locked.
 */
export function watch(onChange, allowed = true) {
  const feed = { status: null, link: allowed ? "loading" : "locked", problem: null, silent: 0 };
  let etag = null;
  let failures = 0;
  let changed = performance.now();
  let timer = 0;
  let busy = false;

  async function poll() {
    clearTimeout(timer);
    if (busy || document.hidden) return;
    busy = true;
    try {
      const reply = await request("GET", "status", { etag, patience: 4000 });
      if (reply.body) {
        feed.status = reply.body;
        etag = reply.etag;
        changed = performance.now();
      }
      failures = 0;
      feed.problem = null;
      feed.silent = Math.max((performance.now() - changed) / 1000, feed.status?.age ?? 0);
      feed.link = feed.silent * 1000 > QUIET ? "quiet" : "live";
    } catch (problem) {
      failures += 1;
      etag = null;
      feed.problem = problem;
      feed.silent = (performance.now() - changed) / 1000;
      if (problem.status === 401 || problem.status === 403) feed.link = "locked";
      else if (problem.status === 503 && !feed.status) feed.link = "loading";
      else if (failures >= LOST) feed.link = "gone";
    } finally {
      busy = false;
    }
    onChange(feed);
    if (!document.hidden && feed.link !== "locked") timer = setTimeout(poll, Math.min(EVERY * Math.max(1, failures), 2000));
  }

  const again = () => feed.link !== "locked" && poll();
  document.addEventListener("visibilitychange", () => {
    changed = performance.now(); // no request was sent while the page was hidden
    again();
  });
  addEventListener("online", again);
  if (allowed) poll();
  else queueMicrotask(() => onChange(feed));
  return { feed, now: poll };
}
