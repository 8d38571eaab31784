// View of one job: state, progress bar, events, results and raw SSE frames.

import { announce, asCurl, asJavaScript, clock, copy, make, range, spoken, webUrl } from "./dom.js";

const FINAL = new Set(["Completed", "Error", "Canceled"]);
const PRELOAD_LIMIT = 4; // number of results above which media are not preloaded

export class Stage {
  #node;
  #pollcast;
  #base;
  #left;
  #view;

  constructor(node, pollcast, base) {
    this.#node = node;
    this.#pollcast = pollcast;
    this.#base = base;
  }

  get job() {
    return this.#view?.job.id;
  }

  /** Shows a job, as returned by GET /api/jobs/{id}, and watches it to its end. */
  show(job, model) {
    this.close();
    const left = (this.#left = new AbortController());
    const view = (this.#view = new View(job, model));
    const cancel = make("button", { type: "button", click: () => this.#cancel(job.id, cancel) }, "Cancel");
    const copier = (label, write) => {
      const click = ({ target }) => copy(write(this.#base, job.order), target);
      return make("button", { type: "button", class: "quiet", click }, label);
    };
    view.actions.append(cancel, copier("Copy as curl", asCurl), copier("Copy as JavaScript", asJavaScript));
    view.raw.addEventListener("toggle", () => this.#frames(job.id, view));
    left.signal.addEventListener("abort", () => view.close());
    this.#node.replaceChildren(...view.parts);
    this.#node.hidden = false;
    const onEvent = (event) => {
      view.add(event);
      if (FINAL.has(event.status)) cancel.remove();
    };
    this.#pollcast.watch(job.id, { onEvent, signal: left.signal }).catch((error) => {
      if (!left.signal.aborted && !error.event) view.fail(error.message);
    });
  }

  close() {
    this.#left?.abort();
    this.#node.hidden = true;
    this.#view = undefined;
  }

  async #cancel(job, button) {
    button.disabled = true;
    try {
      await this.#pollcast.cancel(job);
      announce("Cancellation requested.");
    } catch (error) {
      if (error.code !== "conflict") this.#view?.fail(error.message);
      button.disabled = false;
    }
  }

  /** Shows the raw job stream while its frames are open. */
  async #frames(job, view) {
    view.reading?.abort();
    if (!view.raw.open) return;
    const { signal } = (view.reading = new AbortController());
    view.frames.textContent = "";
    try {
      const { url } = await this.#pollcast.link(`/api/jobs/${job}/events`);
      const response = await fetch(url, { cache: "no-store", signal });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let read; !(read = await reader.read()).done;) view.frames.append(read.value);
    } catch (error) {
      if (!signal.aborted) view.frames.append(`\n(${error.message})`);
    }
  }
}

/** Elements of the view of one job. */
class View {
  #events = make("ol", { class: "events" });
  #bar = make("progress", { max: 100, "aria-label": "Progress" });
  #detail = make("span", {});
  #time = make("span", { class: "time" });
  #pill = make("span", { class: "pill" });
  #message = make("p", { class: "fault", role: "alert" });
  #result = make("div", { class: "result" });
  #text;
  #last;
  #progress; // last reported progress; without one the bar shows an estimate
  #eta;
  #timer;
  #began; // start, by the browser's clock
  #recorded; // start, by the server's clock
  #model;

  constructor(job, model) {
    this.job = job;
    this.#model = model;
    this.#recorded = Date.parse(job.created_at);
    this.#began = Math.min(this.#recorded, Date.now());
    this.frames = make("pre", { tabindex: 0, "aria-label": "Raw frames" });
    this.raw = make("details", {}, make("summary", {}, "Raw frames"), this.frames);
    this.actions = make("p", { class: "actions" });
    const paid = job.tokens === 1 ? "1 token" : `${job.tokens} tokens`;
    this.parts = [
      make("div", { class: "title" }, make("h2", { id: "stage-title" }, job.model), this.#pill),
      make("p", { class: "asked" }, said(job.order)),
      make("div", { class: "bar" }, this.#bar, make("p", { class: "under" }, this.#detail, this.#time)),
      this.#message,
      this.#result,
      this.actions,
      make("details", { open: true }, make("summary", {}, "Events"), this.#events),
      this.raw,
      make("p", { class: "hint" }, `${job.id}, ${paid}`),
    ];
    this.#state("Processing started");
    if (job.eta) this.#expect(job.eta);
    this.#timer = setInterval(() => this.#tick(), 1000);
    this.#tick();
  }

  add(event) {
    this.#last = event;
    this.#progress = event.progress ?? this.#progress;
    if (event.eta) this.#expect(event.eta);
    this.#state(event.status);
    if (event.delta !== undefined) this.#written(event);
    else this.#list(event);
    if (FINAL.has(event.status)) this.#over(event);
    else this.#goesOn(event);
  }

  fail(message) {
    this.#message.textContent = message;
  }

  close() {
    clearInterval(this.#timer);
    this.reading?.abort();
  }

  #state(status) {
    const news = this.#pill.textContent !== status;
    this.#pill.textContent = status;
    this.#pill.dataset.status = status;
    if (news && this.#last) announce(`${this.job.model}: ${status}`);
  }

  #list(event) {
    const { status, detail, progress, message, at, refunded } = event;
    const share = progress === undefined ? "" : `${progress} %`;
    const words = [detail, share, message, refunded ? `${refunded} tokens back` : ""];
    const time = make("time", { datetime: at }, clock((Date.parse(at) - this.#recorded) / 1000));
    this.#events.append(
      make("li", { "data-status": status }, time, make("strong", {}, status), words.filter(Boolean).join(", ")),
    );
  }

  #expect(eta) {
    this.#eta = { ...eta, at: Date.now() };
  }

  #goesOn({ detail, outputs = [] }) {
    if (detail !== undefined) this.#detail.textContent = detail;
    for (const output of outputs) this.#result.append(shown(output, this.job, this.#result.children.length));
    this.#tick();
  }

  #written({ delta }) {
    this.#text ??= this.#result.appendChild(make("p", { class: "text" }));
    this.#text.append(delta);
  }

  #tick() {
    const elapsed = Math.max(0, Date.now() - this.#began) / 1000;
    const progress = this.#progress;
    const [low, high] = this.#model?.typical_seconds ?? [30, 300];
    let left = `usually ${range(low, high)}`;
    let share = 95 * (1 - Math.exp((-2 * elapsed) / high)); // an estimate stays below 100 %
    if (this.#eta) {
      const since = (Date.now() - this.#eta.at) / 1000;
      const [from, to] = [this.#eta.low, this.#eta.high].map((seconds) => Math.max(1, Math.round(seconds - since)));
      left = `about ${range(from, to)} left`;
      share = Math.min(95, (100 * elapsed) / (elapsed + (from + to) / 2));
    }
    this.#bar.classList.toggle("estimate", progress === undefined);
    this.#bar.value = progress ?? share;
    this.#bar.textContent = progress === undefined ? left : `${progress} %`;
    const done = progress === undefined ? "" : `${progress} %, `;
    this.#time.textContent = `${done}${clock(elapsed)} so far, ${left}`;
  }

  #over(event) {
    clearInterval(this.#timer);
    this.#bar.classList.remove("estimate");
    this.#bar.hidden = event.status !== "Completed";
    this.#bar.value = 100;
    this.#detail.textContent = event.detail ?? "";
    this.#time.textContent = `took ${clock((Date.parse(event.at) - this.#recorded) / 1000)}`;
    if (event.status !== "Completed") {
      this.#message.textContent = event.message ?? event.status;
      this.#message.classList.toggle("mild", event.status === "Canceled");
      if (event.refunded) this.#message.append(make("br"), `${event.refunded} tokens were given back.`);
      return;
    }
    const outputs = event.outputs.map((output, n) => shown(output, this.job, n));
    // The event contains the text, so nothing is fetched.
    if (event.text !== undefined) outputs.splice(0, outputs.length, make("p", { class: "text" }, event.text));
    this.#result.replaceChildren(...outputs);
  }
}

/** Returns a short description of an order. */
export function said(order) {
  const { prompt, chunks, clips, messages, items } = order ?? {};
  const first = prompt ?? chunks?.[0]?.prompt ?? clips?.[0]?.prompt ?? messages?.at(-1)?.content;
  return first ?? (items ? `${items.length} items` : "");
}

function shown(output, job, n) {
  const { role, type, unique_id: name, status, message } = output;
  const url = webUrl(output.url);
  if (status === "Error" || !url) {
    const why = message ?? "The result has no URL.";
    return make("figure", {}, make("figcaption", {}, name ? `${name}: ${why}` : why));
  }
  const label = [name, `${spoken(role)}, ${type}`].filter(Boolean).join(": ");
  const open = make("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, "Open");
  return make("figure", {}, player(output, url, job, n), make("figcaption", {}, label, " ", open));
}

function player({ role, thumbnail_url: thumbnail }, url, job, n) {
  const played = { src: url, controls: true, preload: n < PRELOAD_LIMIT ? "metadata" : "none" };
  if (role === "video") return make("video", { ...played, playsinline: true, poster: webUrl(thumbnail) });
  if (role === "audio") return make("audio", played);
  if (role === "page" || role === "text") return "";
  return make("img", { src: url, alt: said(job.order) || "The result", loading: "lazy" });
}
