"use strict";
// What the other scripts share. Text reaches the page by textContent alone: nothing in the data is ever read as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const DASHES = ["", "6 3", "1.5 2", "6 2 1.5 2"];

function make(namespace, tag, attributes, children) {
  const node = namespace ? document.createElementNS(namespace, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "css") for (const [key, of] of Object.entries(value)) node.style.setProperty(key, of);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined) node.append(child);
  return node;
}
const el = (tag, attributes, ...children) => make(null, tag, attributes, children);
const svg = (tag, attributes, ...children) => make("http://www.w3.org/2000/svg", tag, attributes, children);
const on = (node, events, act) => { for (const event of events.split(" ")) node.addEventListener(event, act); return node; };
const look = (label) => data.looks[label] || { colour: "grey", dash: 0 };
const colour = (name) => `var(--${name})`;
const minus = (text) => text.replace("-", "\u2212");

function number(value, digits = 3) {
  if (value === null || value === undefined) return "\u2013";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return minus(value.toExponential(Math.max(0, digits - 1)));
  return minus(String(Number(value.toPrecision(size >= 10 ** digits ? Math.ceil(Math.log10(size)) : digits))));
}

function select(words, label, options, act) {
  const box = el("select", { "aria-label": label }, options.map(([value, text]) => el("option", { value }, text)));
  on(box, "change", () => act(box.value));
  return el("label", {}, words, box);
}

function section(name, ...children) {
  const place = document.getElementById(name);
  place.append(...children.filter(Boolean));
  return place;
}

function heading(pair) {  // only where there is more than one
  return data.viewer.length > 1 || data.learning.length > 1 ? el("h3", {}, `pair ${pair}`) : null;
}

(function header() {
  const facts = data.head.facts;
  document.getElementById("summary").textContent = `What was run, by which code, on what (${facts.length} facts)`;
  const short = Object.fromEntries(facts);
  const line = ["pairs", "tasks", "seeds", "grader", "engine", "code of the runs"].map((word) => `${word} ${short[word]}`).join(" \u00b7 ");
  document.querySelector("h1").after(el("p", { class: "quiet" }, `${line} \u00b7 fingerprint ${short.fingerprint.slice(0, 12)} \u00b7 ${short.page}`));
  const problems = document.getElementById("problems");
  for (const problem of data.problems) problems.append(el("p", { class: "note warn" }, problem));
  for (const note of data.notes) problems.append(el("p", { class: "note" }, note));
  const nav = document.getElementById("nav");
  for (const title of document.querySelectorAll("main h2"))
    nav.append(el("li", {}, el("a", { href: `#${title.parentElement.id}` }, title.textContent)));
})();
