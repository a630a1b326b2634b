"use strict";

// What is shown is what the address says: ?q=, &given=, &split=, &class=, &csls=, &k=. Names that
// come from data are only ever text.

const WAIT = 180; // milliseconds after the last key before it is searched
const K = 36, MOST = 288;
const THUMB = Math.min(4, window.devicePixelRatio || 1) * 160;

const at = (id) => document.getElementById(id);
const files = new Map(); // of pictures that were handed in, by name: in case the server forgets
let about = null;
let running = null; // AbortController of the question that is out
let timer = 0;
let typing = false; // whether the address on top of the history is of a query that is being typed

// --- the address ---------------------------------------------------------------------------------

function stateOf(search) {
  const asked = new URLSearchParams(search);
  const k = Number.parseInt(asked.get("k") || "", 10);
  return { q: asked.get("q") || "", given: asked.get("given") || "", split: asked.get("split") || "",
    class: asked.get("class") || "", csls: asked.get("csls") || "",
    k: k > 0 ? Math.min(k, MOST) : K };
}

function addressOf(state) {
  const said = new URLSearchParams();
  for (const name of ["q", "given", "split", "class", "csls"]) if (state[name]) said.set(name, state[name]);
  if (state.k !== K) said.set("k", String(state.k));
  const text = said.toString();
  return text ? `?${text}` : location.pathname;
}

const here = () => stateOf(location.search);

/** Go to a state: a new one, or what the one on top of the history has become. */
function go(state, { replace = false, quiet = false } = {}) {
  const address = addressOf(state);
  if (replace) history.replaceState(null, "", address);
  else if (address !== (location.search || location.pathname)) history.pushState(null, "", address);
  typing = quiet;
  return show(state, quiet);
}

/** A new question: the options stay, as does the picture where the query still means it. */
function ask(q, options = {}) {
  const now = here();
  const given = options.given ?? (/(^|[\s*])@(\s|$)/.test(q) ? now.given : "");
  return go({ ...now, q, given, k: K }, options);
}

// --- what is shown -------------------------------------------------------------------------------

async function show(state, quiet = false) {
  clearTimeout(timer);
  running?.abort();
  const mine = running = new AbortController();
  const box = at("query");
  if (!quiet && box.value !== state.q) box.value = state.q;
  at("split").value = state.split;
  at("class").value = state.class;
  at("csls").checked = state.csls === "1";
  showGiven(state.given);
  document.title = state.q ? `${state.q} - Tesserae` : "Search - Tesserae";
  try {
    if (!state.q.trim() && !state.given) { fail(""); await welcome(mine.signal); return; }
    busy("Searching ...");
    const started = performance.now();
    const found = await answer(state, mine.signal);
    if (mine.signal.aborted) return;
    fail("");
    showAnswer(found, state, performance.now() - started);
  } catch (error) {
    if (mine.signal.aborted) return;
    busy("");
    if (quiet) at("status").textContent = plain(error.message); // half a word is no mistake
    else { clear(); fail(error.message); }
  }
}

async function answer(state, signal) {
  const wanted = new URLSearchParams({ q: state.q, to: "both", k: String(state.k) });
  for (const name of ["split", "class", "csls"]) if (state[name]) wanted.set(name, state[name]);
  const direct = new URLSearchParams(wanted);
  if (state.given) direct.set("given", state.given);
  const found = await asked(fetch(`api/search?${direct}`, { signal }));
  if (found.status === 410 && files.has(state.given)) return hand(files.get(state.given), wanted, signal);
  return read(found);
}

async function read(found) {
  let said = null;
  try { said = await found.json(); } catch { /* cut off, or not ours: said below */ }
  if (found.ok && said) return said;
  throw new Error(said?.error || `The server answers ${found.status} ${found.statusText}.`);
}

function asked(promise) {
  return promise.catch((error) => {
    throw error instanceof TypeError
      ? new Error("The server cannot be reached. Is `tesserae search --serve` still running?") : error;
  });
}

function busy(text) {
  document.body.setAttribute("aria-busy", text ? "true" : "false");
  if (text) at("status").textContent = text;
}

function fail(text) {
  at("error").textContent = plain(text);
  at("error").hidden = !text;
}

function clear() {
  at("status").textContent = "";
  for (const id of ["words", "pictures"]) at(id).replaceChildren();
  for (const id of ["said", "seen", "further"]) at(id).hidden = true;
}

function showAnswer(found, state, milliseconds) {
  busy("");
  at("words").replaceChildren(...found.words.slice(0, 12).map(wordItem));
  at("said-head").textContent = "In words";
  at("said").hidden = !found.words.length;
  at("seen-head").textContent = "Pictures";
  showPictures(found.images, state);
  at("further").hidden = found.images.length < state.k || state.k >= MOST;
  const count = found.images.length;
  const without = found.passed_over?.length
    ? ` Not known, and passed over: ${plain(found.passed_over.join(", "))}.` : "";
  at("status").textContent = (count
    ? `${count} ${count === 1 ? "picture" : "pictures"} for ${plain(found.query)}, in ${Math.round(milliseconds)} ms.`
    : `No picture was found for ${plain(found.query)}.`) + without;
}

async function welcome(signal) {
  if (!about) await meet(signal);
  if (!about || signal.aborted) return;
  busy("");
  const rows = about.splits.reduce((sum, one) => sum + one.rows, 0);
  at("status").textContent = `${rows.toLocaleString("en")} pictures are searched. Type words, click a picture,`
    + " or drop one here.";
  at("words").replaceChildren(...about.examples.map((q) => wordItem({ words: q, query: q, also: [] })));
  at("said-head").textContent = "For example";
  at("said").hidden = !about.examples.length;
  at("seen-head").textContent = "Some of them";
  showPictures(about.first, here());
  at("further").hidden = true;
}

// --- pieces --------------------------------------------------------------------------------------

function make(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const nameOf = (hit) => (about && about.splits.length === 1 ? `#${hit.row}` : `#${hit.split}:${hit.row}`);

/** A name on one line, without what is no printable character: that would be obeyed. */
const plain = (text) => text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);

/** A link to a question: a plain click stays on this page. */
function link(q, properties, ...children) {
  const made = make("a", { ...properties, href: addressOf({ ...here(), q, given: "", k: K }) }, ...children);
  made.dataset.q = q;
  return made;
}

function wordItem(hit) {
  const text = make("span", { textContent: plain(hit.words), dir: "auto" });
  const inside = hit.score === undefined ? [text]
    : [text, make("small", { textContent: hit.score.toFixed(3) })];
  const also = [plain(hit.words), ...(hit.also.length ? [`just as near: ${plain(hit.also.join("; "))}`] : [])]
    .join("; ");
  const made = hit.query ? link(hit.query, { className: "word", title: also }, ...inside)
    : make("span", { className: "word", title: also }, ...inside);
  return make("li", {}, made);
}

function showPictures(hits, state) {
  at("pictures").replaceChildren(...hits.map((hit) => pictureItem(hit, state)));
  at("seen").hidden = !hits.length;
}

function pictureItem(hit, state) {
  const name = nameOf(hit);
  const words = plain(hit.words) || "no class";
  const image = make("img", { alt: `${words}, ${hit.split} row ${hit.row}`, width: 160, height: 160,
    loading: "lazy", decoding: "async",
    src: `thumb/${encodeURIComponent(hit.split)}/${hit.row}.jpg?size=${Math.round(THUMB)}` });
  image.addEventListener("error", () => { image.alt = `${name} cannot be shown`; }, { once: true });
  const picture = link(name, { className: "picture", title: `Search on from ${name}` }, image);
  picture.dataset.name = name;
  const label = hit.query ? link(hit.query, { textContent: words, title: plain(hit.wnid), dir: "auto" })
    : make("span", { textContent: words, title: plain(hit.wnid), dir: "auto" });
  const score = state.q || state.given ? hit.score.toFixed(3) : "";
  const add = make("button", { type: "button", className: "add", textContent: "+", tabIndex: -1,
    title: `Add ${name} to the query` });
  add.setAttribute("aria-label", `Add ${name} to the query`);
  add.addEventListener("click", () => addTerm(name));
  const key = make("span", { className: "key", textContent: plain(hit.key), dir: "auto",
    title: `${plain(hit.key)} (${name})` });
  return make("li", {}, picture, add,
    make("div", { className: "caption" }, label, make("span", { className: "score", textContent: score })), key);
}

function addTerm(name) {
  const q = here().q.trim();
  ask(q ? `${q} + ${name}` : name, { given: here().given });
  at("query").focus();
}

// --- pictures that are handed in -----------------------------------------------------------------

function showGiven(name) {
  at("given").hidden = !name;
  if (name) at("given-picture").src = `given/${name}.jpg`;
  else at("given-picture").removeAttribute("src");
}

async function hand(file, wanted, signal) {
  const found = await fetch(`api/search?${wanted}`, { method: "POST", body: file, signal,
    headers: { "Content-Type": file.type || "application/octet-stream" } });
  const said = await read(found);
  files.set(said.given, file);
  if (files.size > 8) files.delete(files.keys().next().value);
  return said;
}

async function take(file) {
  if (about && file.size > about.most_bytes) {
    fail(`${file.name} is too large: expected at most ${Math.round(about.most_bytes / 2 ** 20)} MB.`);
    return;
  }
  const now = here();
  const typed = at("query").value.trim();
  const q = now.given || !typed ? "" : typed; // a new picture takes the place of an old one
  clearTimeout(timer);
  running?.abort();
  const mine = running = new AbortController();
  busy("Looking at the picture ...");
  fail("");
  try {
    const wanted = new URLSearchParams({ q, to: "words", k: "1" });
    const said = await asked(hand(file, wanted, mine.signal));
    if (!mine.signal.aborted) ask(said.query, { given: said.given });
  } catch (error) {
    if (mine.signal.aborted) return;
    busy("");
    at("status").textContent = ""; // it no longer looks at the picture
    fail(error.message);
  }
}

const fileOf = (data) => [...(data?.files || [])][0];

// --- what a person does --------------------------------------------------------------------------

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const q = at("query").value.trim();
  ask(q, { replace: typing });
});

at("query").addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(() => ask(at("query").value.trim(), { replace: typing, quiet: true }), WAIT);
});

at("split").addEventListener("change", () => go({ ...here(), split: at("split").value, k: K }));
at("class").addEventListener("change", () => go({ ...here(), class: at("class").value.trim(), k: K }));
at("csls").addEventListener("change", () => go({ ...here(), csls: at("csls").checked ? "1" : "", k: K }));
at("further").addEventListener("click", () => go({ ...here(), k: Math.min(MOST, 2 * here().k) }, { replace: true }));
at("choose").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => {
  const file = at("file").files[0];
  at("file").value = ""; // so that the same one can be chosen again
  if (file) take(file);
});
at("forget").addEventListener("click", () => {
  const q = here().q.replace(/(^|\s)(?:[+-]\s+)?(?:[\d.]+\*)?@(?=\s|$)/g, " ").trim().replace(/^\+\s+/, "");
  ask(/^[-~]/.test(q) ? "" : q, { given: "" });
  at("query").focus();
});

document.addEventListener("click", (event) => {
  const found = event.target.closest("a[data-q]");
  if (!found || event.button || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  if (event.shiftKey && found.dataset.name) addTerm(found.dataset.name);
  else {
    const byKey = event.detail === 0; // then whoever came by keys wants to go on by keys
    ask(found.dataset.q, { given: "" }).then(() => { if (byKey) pictures()[0]?.focus(); });
    window.scrollTo(0, 0);
  }
});

window.addEventListener("popstate", () => { typing = false; show(here()); });

let depth = 0; // dragging over a child leaves its parent
document.addEventListener("dragenter", (event) => { event.preventDefault(); depth += 1; at("drop").hidden = false; });
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("dragleave", () => { depth = Math.max(0, depth - 1); if (!depth) at("drop").hidden = true; });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  at("drop").hidden = true;
  const file = fileOf(event.dataTransfer);
  if (file) take(file);
  else fail("Only files can be dropped here: save the picture first.");
});
document.addEventListener("paste", (event) => {
  const file = fileOf(event.clipboardData);
  if (file) { event.preventDefault(); take(file); }
});

// --- keys ----------------------------------------------------------------------------------------

const pictures = () => [...document.querySelectorAll("a.picture")];

function columns(all) {
  const top = all[0].getBoundingClientRect().top;
  const below = all.findIndex((one) => one.getBoundingClientRect().top > top + 1);
  return below < 0 ? all.length : below;
}

function move(key, from) {
  const all = pictures();
  if (!all.length) return false;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(all), ArrowDown: columns(all) };
  const to = key === "Home" ? 0 : key === "End" ? all.length - 1 : from + steps[key];
  if (to < 0) { at("query").focus(); return true; }
  const found = all[Math.min(to, all.length - 1)];
  found.focus();
  found.scrollIntoView({ block: "nearest" });
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const box = at("query");
  const inField = event.target.matches("input, select, textarea");
  if (event.key === "/" && !inField) {
    event.preventDefault();
    box.focus();
    box.select();
  } else if (event.key === "Escape") {
    event.preventDefault();
    box.value = "";
    if (here().q || here().given) ask("", { given: "" });
    box.focus();
  } else if (event.target === box && event.key === "ArrowDown") {
    if (move("Home", 0)) event.preventDefault();
  } else if (event.target.matches("a.picture")) {
    const from = pictures().indexOf(event.target);
    if (["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(event.key)) {
      if (move(event.key, from)) event.preventDefault();
    } else if (event.key === "+") {
      event.preventDefault();
      addTerm(event.target.dataset.name);
    }
  }
});

// --- the beginning -------------------------------------------------------------------------------

async function meet(signal) {
  about = await read(await asked(fetch("api/about", { signal })));
  at("store").textContent = about.store;
  for (const one of about.splits) {
    at("split").append(make("option", { value: one.name, textContent: `${one.name} (${one.rows.toLocaleString("en")})` }));
  }
  at("of-split").hidden = about.splits.length < 2;
  at("of-csls").hidden = !about.csls;
  at("file").accept = about.formats.map((name) => `image/${name.toLowerCase()}`).join(",");
}

meet().catch((error) => fail(error.message)).then(() => show(here()));
