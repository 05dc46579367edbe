// The HTTP reference: openapi.json as a page.

import { request } from "./api.js";
import { fill, h } from "./dom.js";

const content = document.getElementById("content");
const DEEPEST = 8; // levels of a record that are shown

start();

async function start() {
  fill(content, h("p", { class: "soft" }, "Loading…"));
  try {
    show((await request("GET", "openapi.json")).body);
  } catch (problem) {
    const locked = problem.status === 401 || problem.status === 403;
    const words = locked ? ["Log in on the ", h("a", { href: "./" }, "dashboard"), " first."] : [problem.message];
    fill(content, h("div", { class: "empty" }, h("h2", {}, locked ? "This needs a token" : "No document"), h("p", {}, words)));
  }
}

function show(doc) {
  const operations = Object.entries(doc.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method: method.toUpperCase(), ...operation })),
  );
  const lead = `${doc.info.description} ${operations.length} operations, version ${doc.info.version}.`;
  const sections = doc.tags.map((tag) => {
    const rows = operations.filter((one) => one.tags.includes(tag.name)).map((one) => row(one, doc));
    return h("section", { class: "card" }, h("header", {}, h("h2", {}, tag.name), h("span", { class: "soft" }, tag.description)), rows);
  });
  fill(content, h("div", { class: "head" }, h("h1", {}, "HTTP reference"), h("p", { class: "lead" }, lead)), h("div", { class: "stack" }, sections));
  openNamed();
  addEventListener("hashchange", openNamed);
}

/** Open the operation named in the address. */
function openNamed() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named instanceof HTMLDetailsElement) {
    named.open = true;
    named.scrollIntoView({ block: "start" });
  }
}

function row(one, doc) {
  const title = h(
    "summary",
    {},
    h("span", { class: "method", "data-method": one.method }, one.method),
    h("span", { class: "path" }, one.path),
    h("span", { class: "soft" }, one.summary),
    one["x-scope"] && h("span", { class: "chip", title: "scope that the token needs" }, one["x-scope"]),
  );
  const details = h("details", { class: "operation", id: one.operationId }, title);
  details.addEventListener("toggle", () => details.children.length > 1 || details.append(inside(one, doc)));
  return details;
}

function inside(one, doc) {
  const body = one.requestBody?.content["application/json"].schema;
  return h(
    "div",
    { class: "inside" },
    h("h3", {}, "Try it"),
    h("pre", {}, command(one, body, doc)),
    one.parameters && [h("h3", {}, "Parameters"), one.parameters.map((parameter) => line(parameter.name, parameter.schema, doc, parameter.description))],
    body && [h("h3", {}, "Body"), shape(body, doc, 0)],
    h("h3", {}, "Responses"),
    Object.entries(one.responses).map(([status, answer]) => reply(status, answer, doc)),
  );
}

function reply(status, answer, doc) {
  const [media, found] = Object.entries(answer.content ?? {})[0] ?? ["", null];
  const tone = status < 300 ? "good" : status < 400 ? "" : "warn";
  const title = [h("span", { class: `chip ${tone}` }, status), ` ${answer.description} `, media && h("span", { class: "soft small" }, media)];
  if (!found || media !== "application/json") return h("p", {}, title);
  return h("details", {}, h("summary", {}, title), shape(found.schema, doc, 0));
}

/** Return a shell command for the operation, with an example body. */
function command(one, body, doc) {
  const url = new URL(one.path.replace(/^\//, ""), location.href.replace(/#.*/, "")).href.replaceAll("%7B", "{").replaceAll("%7D", "}");
  const parts = [`curl${one.method === "GET" ? "" : ` -X ${one.method}`} ${url}`];
  if (one["x-scope"]) parts.push(`-H "Authorization: Bearer $TOKEN"`);
  if (body) parts.push('-H "Content-Type: application/json"', `-d '${JSON.stringify(example(body, doc, 0)).replaceAll("'", "'\\''")}'`);
  return parts.join(" \\\n  ");
}

const resolved = (schema, doc) => (schema.$ref ? doc.components.schemas[schema.$ref.split("/").pop()] : schema);

function example(given, doc, depth) {
  const schema = resolved(given, doc);
  if (schema.examples) return schema.examples[0];
  if (schema.anyOf) return example(schema.anyOf[0], doc, depth);
  if (schema.default !== undefined) return schema.default;
  if (schema.enum) return schema.enum.at(-1);
  const type = [schema.type].flat()[0];
  if (type === "object") {
    const required = [...(schema.required ?? []), ...(schema.oneOf?.[0].required ?? [])];
    if (depth > DEEPEST) return {};
    return Object.fromEntries(required.map((name) => [name, example(schema.properties[name], doc, depth + 1)]));
  }
  if (type === "array") return [example(schema.items, doc, depth + 1)];
  return { string: "…", integer: 1, number: 1.5, boolean: true }[type] ?? null;
}

/** Show a schema as a tree, one line for each property. */
function shape(given, doc, depth) {
  const schema = resolved(given, doc);
  const what = schema.description && h("div", { class: "what" }, worded(schema.description));
  if (schema.anyOf && !schema.properties) {
    return h("div", { class: "shape" }, what, schema.anyOf.map((one, i) => h("div", {}, i ? "or" : "", shape(one, doc, depth + 1))));
  }
  const required = schema.required ?? [];
  const lines = Object.entries(schema.properties ?? {}).map(([name, one]) => line(name + (required.includes(name) ? "" : "?"), one, doc, "", depth + 1));
  return h("div", { class: "shape" }, what, lines.length ? lines : h("span", { class: "type" }, typed(schema, doc)));
}

function line(name, schema, doc, what = "", depth = 0) {
  const description = what || (schema.$ref ? "" : schema.description);
  const title = [name, " ", h("span", { class: "type" }, typed(schema, doc)), description && h("span", { class: "what" }, " ", worded(description))];
  const inner = inward(schema, doc);
  if (!inner || depth > DEEPEST) return h("div", { class: "shape" }, title);
  const details = h("details", { class: "shape" }, h("summary", {}, title));
  details.addEventListener("toggle", () => details.children.length > 1 || details.append(shape(inner, doc, depth + 1)));
  return details;
}

/** Show text, with backquoted parts as code. */
const worded = (text) => text.split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part));

/** Return the record inside a schema, if there is one to expand. */
function inward(given, doc) {
  const schema = resolved(given, doc);
  if (schema.properties) return schema;
  if (schema.items) return inward(schema.items, doc);
  return schema.anyOf?.map((one) => inward(one, doc)).find(Boolean);
}

function typed(given, doc) {
  if (given.$ref) return given.$ref.split("/").pop();
  const schema = resolved(given, doc);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema.anyOf) return [...new Set(schema.anyOf.map((one) => typed(one, doc)))].join(" | ");
  const type = [schema.type ?? "anything"].flat().join(" | ");
  return type.startsWith("array") && schema.items ? type.replace("array", `[${typed(schema.items, doc)}]`) : type;
}
