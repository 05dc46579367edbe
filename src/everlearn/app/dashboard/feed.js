// The server's status, asked for twice a second while somebody looks, and an honest word on how fresh it is.

import { ask } from "./api.js";

const EVERY = 500; // milliseconds between two questions
const QUIET = 2000; // a learner that says nothing new for so long is reported
const LOST = 2; // questions without an answer until the server counts as gone

/**
 * Watch the status. `onChange(feed)` is called with {status, link, problem, silent} after every answer, and when it fails:
 * `link` is "loading", "live", "quiet" (the learner is silent), "locked" (log in
 * first; it then asks no more until `now` is called), or "gone". Without `allowed` it begins locked.
 */
export function watch(onChange, allowed = true) {
  const feed = { status: null, link: allowed ? "loading" : "locked", problem: null, silent: 0 };
  let etag = null;
  let failures = 0;
  let changed = performance.now();
  let timer = 0;
  let asking = false;

  async function question() {
    clearTimeout(timer);
    if (asking || document.hidden) return;
    asking = true;
    try {
      const answer = await ask("GET", "status", { etag, patience: 4000 });
      if (answer.body) {
        feed.status = answer.body;
        etag = answer.etag;
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
      asking = false;
    }
    onChange(feed);
    if (!document.hidden && feed.link !== "locked") timer = setTimeout(question, Math.min(EVERY * Math.max(1, failures), 2000));
  }

  const again = () => feed.link !== "locked" && question();
  document.addEventListener("visibilitychange", () => {
    changed = performance.now(); // nothing was asked while nobody looked
    again();
  });
  addEventListener("online", again);
  if (allowed) question();
  else queueMicrotask(() => onChange(feed));
  return { feed, now: question };
}
