"use strict";

// The page shows the state in its address: ?q=, &given=, &split=, &class=, &csls=, &fold=, &k=. Names from
// data are only ever inserted as text, never as markup.

const TYPING_DELAY_MS = 180; // from the last key press to the search
const DEFAULT_K = 36, MAX_K = 288;
const OPTIONS = ["split", "class", "csls", "fold"];
const DOWNLOADS = { csv: "table (CSV)", json: "document (JSON)", zip: "images (ZIP)" };
const THUMBNAIL_SIZE = Math.min(4, window.devicePixelRatio || 1) * 160;

const byId = (id) => document.getElementById(id);
const files = new Map(); // uploaded files by name, in case the server evicts them
let about = null;
let running = null; // AbortController of the pending request
let timer = 0;
let typing = false; // true while the newest history entry is a query that is still being typed

// --- the address ---------------------------------------------------------------------------------

function stateOf(search) {
  const parameters = new URLSearchParams(search);
  const k = Number.parseInt(parameters.get("k") || "", 10);
  return { q: parameters.get("q") || "", given: parameters.get("given") || "", split: parameters.get("split") || "",
    class: parameters.get("class") || "", csls: parameters.get("csls") || "", fold: parameters.get("fold") || "",
    k: k > 0 ? Math.min(k, MAX_K) : DEFAULT_K };
}

function addressOf(state) {
  const parameters = new URLSearchParams();
  for (const name of ["q", "given", ...OPTIONS]) {
    if (state[name]) parameters.set(name, state[name]);
  }
  if (state.k !== DEFAULT_K) parameters.set("k", String(state.k));
  const text = parameters.toString();
  return text ? `?${text}` : location.pathname;
}

const currentState = () => stateOf(location.search);

/** Show a state, and push it to the history or replace the newest entry by it. */
function go(state, { replace = false, quiet = false } = {}) {
  const address = addressOf(state);
  if (replace) history.replaceState(null, "", address);
  else if (address !== (location.search || location.pathname)) history.pushState(null, "", address);
  typing = quiet;
  return show(state, quiet);
}

/** Search for a query; keep the options, and the uploaded image if the query contains @. */
function search(q, options = {}) {
  const now = currentState();
  const given = options.given ?? (/(^|[\s*])@(\s|$)/.test(q) ? now.given : "");
  return go({ ...now, q, given, k: DEFAULT_K }, options);
}

// --- results -------------------------------------------------------------------------------------

async function show(state, quiet = false) {
  clearTimeout(timer);
  running?.abort();
  const mine = running = new AbortController();
  const box = byId("query");
  if (!quiet && box.value !== state.q) box.value = state.q;
  byId("split").value = state.split;
  byId("class").value = state.class;
  byId("csls").checked = state.csls === "1";
  byId("unfolded").checked = state.fold === "0";
  showUpload(state.given);
  document.title = state.q ? `${state.q} - Tesserae` : "Search - Tesserae";
  try {
    if (!state.q.trim() && !state.given) { fail(""); await welcome(mine.signal); return; }
    busy("Searching ...");
    const started = performance.now();
    const result = await requestSearch(state, mine.signal);
    if (mine.signal.aborted) return;
    fail("");
    showAnswer(result, state, performance.now() - started);
  } catch (error) {
    if (mine.signal.aborted) return;
    busy("");
    if (quiet) byId("status").textContent = visible(error.message); // an incomplete query is no error while it is typed
    else { clear(); fail(error.message); }
  }
}

function optionsOf(state) {
  const options = new URLSearchParams({ q: state.q, to: "both", k: String(state.k) });
  for (const name of OPTIONS) if (state[name]) options.set(name, state[name]);
  return options;
}

async function requestSearch(state, signal) {
  const options = optionsOf(state);
  const parameters = new URLSearchParams(options);
  if (state.given) parameters.set("given", state.given);
  const response = await explainUnreachable(fetch(`api/search?${parameters}`, { signal }));
  if (response.status === 410 && files.has(state.given)) { // evicted from the server's cache
    return upload(files.get(state.given), options, signal);
  }
  return read(response);
}

async function read(response) {
  let body = null;
  try { body = await response.json(); } catch { /* truncated, or from a proxy: reported below */ }
  if (response.ok && body) return body;
  throw new Error(body?.error || `The server responded with ${response.status} ${response.statusText}.`);
}

/** Replace the browser's error of a failed connection by a sentence. */
function explainUnreachable(promise) {
  return promise.catch((error) => {
    throw error instanceof TypeError
      ? new Error("The server cannot be reached. Is `tesserae search --serve` still running?") : error;
  });
}

function busy(text) {
  document.body.setAttribute("aria-busy", text ? "true" : "false");
  if (text) byId("status").textContent = text;
}

function fail(text) {
  byId("error").textContent = visible(text);
  byId("error").hidden = !text;
}

function clear() {
  byId("status").textContent = "";
  for (const id of ["words", "images"]) byId(id).replaceChildren();
  for (const id of ["words-section", "images-section", "more-images", "downloads"]) byId(id).hidden = true;
}

function showAnswer(result, state, milliseconds) {
  busy("");
  byId("words").replaceChildren(...result.words.slice(0, 12).map(wordItem));
  byId("words-heading").textContent = "Nearest words";
  byId("words-section").hidden = !result.words.length;
  byId("images-heading").textContent = "Nearest images";
  showImages(result.images, state);
  showDownloads(state, result.given);
  byId("more-images").hidden = result.images.length < state.k || state.k >= MAX_K;
  const count = result.images.length;
  const without = result.passed_over?.length
    ? ` Unknown words, ignored: ${visible(result.passed_over.join(", "))}.` : "";
  const score = state.csls === "1" ? "CSLS score" : "cosine similarity";
  byId("status").textContent = (count
    ? `${count} ${count === 1 ? "image" : "images"} for ${visible(result.query)} by ${score},`
      + ` in ${Math.round(milliseconds)} ms.`
    : `No images for ${visible(result.query)}.`) + without;
}

async function welcome(signal) {
  if (!about) await loadAbout(signal);
  if (!about || signal.aborted) return;
  busy("");
  const rows = about.splits.reduce((sum, split) => sum + split.rows, 0);
  byId("status").textContent = `${rows.toLocaleString("en")} images can be searched. Type words, click an image,`
    + " or drop a file here.";
  byId("words").replaceChildren(...about.examples.map((q) => wordItem({ words: q, query: q, also: [] })));
  byId("words-heading").textContent = "Examples";
  byId("words-section").hidden = !about.examples.length;
  byId("images-heading").textContent = "Sample images";
  showImages(about.first, currentState());
  byId("more-images").hidden = byId("downloads").hidden = true;
}

// --- elements ------------------------------------------------------------------------------------

function element(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const nameOf = (hit) => (about && about.splits.length === 1 ? `#${hit.row}` : `#${hit.split}:${hit.row}`);

/** Escape control and formatting characters, which could reorder or hide text. */
const visible = (text) => text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);

/** The first name of a class, of which a table may list several between commas. */
const firstName = (words) => visible(words).split(",")[0];

/** A link to a query; a plain click is handled on this page. */
function link(q, properties, ...children) {
  const href = addressOf({ ...currentState(), q, given: "", k: DEFAULT_K });
  const anchor = element("a", { ...properties, href }, ...children);
  anchor.dataset.q = q;
  return anchor;
}

function wordItem(hit) {
  const text = element("span", { textContent: hit.score === undefined ? visible(hit.words) : firstName(hit.words),
    dir: "auto" });
  const inside = hit.score === undefined ? [text]
    : [text, element("small", { textContent: hit.score.toFixed(3) })];
  const also = [visible(hit.words), ...(hit.also.length ? [`same vector: ${visible(hit.also.join("; "))}`] : [])]
    .join("; ");
  const item = hit.query ? link(hit.query, { className: "word", title: also }, ...inside)
    : element("span", { className: "word", title: also }, ...inside);
  return element("li", {}, item);
}

function showImages(hits, state) {
  byId("images").replaceChildren(...hits.map((hit) => imageItem(hit, state)));
  byId("images-section").hidden = !hits.length;
}

/** Links to the answers on the page as files. */
function showDownloads(state, given) {
  const links = Object.entries(DOWNLOADS).map(([format, name]) => {
    const parameters = optionsOf(state);
    parameters.set("format", format);
    if (given) parameters.set("given", given);
    return element("a", { href: `api/download?${parameters}`, download: "", textContent: name });
  });
  byId("downloads").replaceChildren("Download: ", ...links.flatMap((anchor, index) => (index ? [", ", anchor] : [anchor])));
  byId("downloads").hidden = false;
}

/** The copies of an image, which are one answer with it. */
function copiesOf(hit) {
  const count = `${hit.copies.length} ${hit.copies.length === 1 ? "copy" : "copies"}`;
  const links = hit.copies.map((copy) => element("li", {}, link(nameOf(copy), { textContent: visible(copy.key.split("/").pop()),
    title: `${visible(copy.key)} (${nameOf(copy)})`, dir: "auto" })));
  return element("details", { className: "copies" }, element("summary", { textContent: `and ${count}` }),
    element("ul", {}, ...links));
}

function imageItem(hit, state) {
  const name = nameOf(hit);
  const file = visible(hit.key.split("/").pop());
  const words = visible(hit.words) || file; // an image without a class is called by its file
  const image = element("img", { alt: `${words}, ${hit.split} row ${hit.row}`, width: 160, height: 160,
    loading: "lazy", decoding: "async",
    src: `thumb/${encodeURIComponent(hit.split)}/${hit.row}.jpg?size=${Math.round(THUMBNAIL_SIZE)}` });
  image.addEventListener("error", () => { image.alt = `${name} cannot be shown`; }, { once: true });
  const anchor = link(name, { className: "image", title: `Search with ${name}` }, image);
  anchor.dataset.name = name;
  const caption = { textContent: hit.words ? firstName(words) : file, dir: "auto",
    title: hit.words ? `${words} (${visible(hit.wnid)})` : visible(hit.key) };
  const label = hit.query ? link(hit.query, caption) : element("span", caption);
  const score = state.q || state.given ? hit.score.toFixed(3) : "";
  const add = element("button", { type: "button", className: "add", textContent: "+", tabIndex: -1,
    title: `Add ${name} to the query` });
  add.setAttribute("aria-label", `Add ${name} to the query`);
  add.addEventListener("click", () => addTerm(name));
  const key = element("span", { className: "key", textContent: hit.words ? file : "", dir: "auto",
    title: `${visible(hit.key)} (${name})` });
  return element("li", {}, anchor, add,
    element("div", { className: "caption" }, label, element("span", { className: "score", textContent: score })), key,
    ...(hit.copies.length ? [copiesOf(hit)] : []));
}

function addTerm(name) {
  const q = currentState().q.trim();
  search(q ? `${q} + ${name}` : name, { given: currentState().given });
  byId("query").focus();
}

// --- uploads -------------------------------------------------------------------------------------

function showUpload(name) {
  byId("uploaded").hidden = !name;
  if (name) byId("uploaded-image").src = `given/${name}.jpg`;
  else byId("uploaded-image").removeAttribute("src");
}

async function upload(file, options, signal) {
  const response = await fetch(`api/search?${options}`, { method: "POST", body: file, signal,
    headers: { "Content-Type": file.type || "application/octet-stream" } });
  const result = await read(response);
  files.set(result.given, file);
  if (files.size > 8) files.delete(files.keys().next().value);
  return result;
}

async function searchWith(file) {
  if (about && file.size > about.most_bytes) {
    fail(`${file.name} is too large: expected at most ${Math.round(about.most_bytes / 2 ** 20)} MB.`);
    return;
  }
  const now = currentState();
  const typed = byId("query").value.trim();
  const q = now.given || !typed ? "" : typed; // a new upload replaces the previous one
  clearTimeout(timer);
  running?.abort();
  const mine = running = new AbortController();
  busy("Processing the image ...");
  fail("");
  try {
    const options = new URLSearchParams({ q, to: "words", k: "1" });
    const result = await explainUnreachable(upload(file, options, mine.signal));
    if (!mine.signal.aborted) search(result.query, { given: result.given });
  } catch (error) {
    if (mine.signal.aborted) return;
    busy("");
    byId("status").textContent = ""; // clear "Processing the image ..."
    fail(error.message);
  }
}

const fileOf = (data) => [...(data?.files || [])][0];

// --- events --------------------------------------------------------------------------------------

byId("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const q = byId("query").value.trim();
  search(q, { replace: typing });
});

byId("query").addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(() => search(byId("query").value.trim(), { replace: typing, quiet: true }), TYPING_DELAY_MS);
});

byId("split").addEventListener("change", () => go({ ...currentState(), split: byId("split").value, k: DEFAULT_K }));
byId("class").addEventListener("change", () => go({ ...currentState(), class: byId("class").value.trim(), k: DEFAULT_K }));
byId("csls").addEventListener("change", () => {
  go({ ...currentState(), csls: byId("csls").checked ? "1" : "", k: DEFAULT_K });
});
byId("unfolded").addEventListener("change", () => {
  go({ ...currentState(), fold: byId("unfolded").checked ? "0" : "", k: DEFAULT_K });
});
byId("more-images").addEventListener("click", () => {
  go({ ...currentState(), k: Math.min(MAX_K, 2 * currentState().k) }, { replace: true });
});
byId("upload").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", () => {
  const file = byId("file").files[0];
  byId("file").value = ""; // so that choosing the same file again fires an event
  if (file) searchWith(file);
});
byId("remove-upload").addEventListener("click", () => {
  const q = currentState().q.replace(/(^|\s)(?:[+-]\s+)?(?:[\d.]+\*)?@(?=\s|$)/g, " ").trim().replace(/^\+\s+/, "");
  search(/^[-~]/.test(q) ? "" : q, { given: "" });
  byId("query").focus();
});

document.addEventListener("click", (event) => {
  const anchor = event.target.closest("a[data-q]");
  if (!anchor || event.button || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  if (event.shiftKey && anchor.dataset.name) addTerm(anchor.dataset.name);
  else {
    const byKey = event.detail === 0; // keep keyboard users on the images
    search(anchor.dataset.q, { given: "" }).then(() => { if (byKey) images()[0]?.focus(); });
    window.scrollTo(0, 0);
  }
});

window.addEventListener("popstate", () => { typing = false; show(currentState()); });

let depth = 0; // entering a child element fires dragleave on its parent, so count both events
document.addEventListener("dragenter", (event) => { event.preventDefault(); depth += 1; byId("drop").hidden = false; });
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("dragleave", () => { depth = Math.max(0, depth - 1); if (!depth) byId("drop").hidden = true; });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  byId("drop").hidden = true;
  const file = fileOf(event.dataTransfer);
  if (file) searchWith(file);
  else fail("Only files can be dropped here: save the image first.");
});
document.addEventListener("paste", (event) => {
  const file = fileOf(event.clipboardData);
  if (file) { event.preventDefault(); searchWith(file); }
});

// --- keys ----------------------------------------------------------------------------------------

const images = () => [...document.querySelectorAll("a.image")];

function columns(all) {
  const top = all[0].getBoundingClientRect().top;
  const below = all.findIndex((image) => image.getBoundingClientRect().top > top + 1);
  return below < 0 ? all.length : below;
}

function move(key, from) {
  const all = images();
  if (!all.length) return false;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(all), ArrowDown: columns(all) };
  const to = key === "Home" ? 0 : key === "End" ? all.length - 1 : from + steps[key];
  if (to < 0) { byId("query").focus(); return true; }
  const target = all[Math.min(to, all.length - 1)];
  target.focus();
  target.scrollIntoView({ block: "nearest" });
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const box = byId("query");
  const inField = event.target.matches("input, select, textarea");
  if (event.key === "/" && !inField) {
    event.preventDefault();
    box.focus();
    box.select();
  } else if (event.key === "Escape") {
    event.preventDefault();
    box.value = "";
    if (currentState().q || currentState().given) search("", { given: "" });
    box.focus();
  } else if (event.target === box && event.key === "ArrowDown") {
    if (move("Home", 0)) event.preventDefault();
  } else if (event.target.matches("a.image")) {
    const from = images().indexOf(event.target);
    if (["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(event.key)) {
      if (move(event.key, from)) event.preventDefault();
    } else if (event.key === "+") {
      event.preventDefault();
      addTerm(event.target.dataset.name);
    }
  }
});

// --- start ---------------------------------------------------------------------------------------

async function loadAbout(signal) {
  about = await read(await explainUnreachable(fetch("api/about", { signal })));
  byId("store").textContent = about.store;
  for (const split of about.splits) {
    const textContent = `${split.name} (${split.rows.toLocaleString("en")})`;
    byId("split").append(element("option", { value: split.name, textContent }));
  }
  byId("split-option").hidden = about.splits.length < 2;
  byId("class-option").hidden = !about.store_classes;
  byId("csls-option").hidden = !about.csls;
  byId("file").accept = about.formats.map((name) => `image/${name.toLowerCase()}`).join(",");
}

loadAbout().catch((error) => fail(error.message)).then(() => show(currentState()));
