// Browser client of Pollcast: one ES module without dependencies. pollcast.d.ts documents its interface.
//
// - generate() sends an Idempotency-Key with every order. An order can therefore be sent again after a lost response or
//   a reload, and creates no second job. Unfinished orders are kept in sessionStorage, without the API key.
// - All jobs and all tabs share one connection, GET /api/events. The tab that holds a Web Lock reads it and sends the
//   events to the other tabs over a BroadcastChannel. When that tab is closed or goes silent (a dialog also stops a
//   page), another tab continues after the last position it received.
// - The feed does not contain the deltas of texts, so a text model's job is read from its own stream. Missing events are
//   also read there (a job's events are numbered 1, 2, 3 ...), and so is a job of which only a Link is known.
// - Streams are opened with Links, which expire. A new Link is requested shortly before that, or when one is refused.
// - Only errors in Pollcast's JSON format are final. An error page of a proxy or firewall is treated like a lost
//   connection, unless its status blames the request (PERMANENT_STATUSES).
// - A page that cannot share (in a sandboxed frame, on an insecure origin) opens its own connection. Without storage,
//   orders work as well, but a reload loses them.

const FINAL = new Set(["Completed", "Error", "Canceled"]);
const RETRY_DELAY = 2_000; // ms before a reconnect, until the stream sends a `retry` line
const [FIRST_DELAY, MAX_DELAY] = [1_000, 30_000]; // ms between attempts to reach an unreachable server
const SILENCE_TIMEOUT = 60_000; // ms without a heartbeat or a response, after which a connection counts as lost
// ms between two signs of life of the leading tab; ms without one until another tab takes over
const [BEAT_INTERVAL, LEADER_TIMEOUT] = [5_000, 15_000];
const EXPIRY_MARGIN = 10_000; // ms before a Link's expiry from which it is no longer used
const MAX_PAUSE = 300_000; // ms. Limits Retry-After, because a timer of more than 2 ** 31 ms fires at once
// Statuses of a proxy that blame the request itself: a retry is pointless.
const PERMANENT_STATUSES = new Set([400, 405, 411, 413, 414, 415, 431]);
const KEY_LIFETIME = 86_400_000; // ms for which the server certainly remembers an Idempotency-Key

export const connect = (options) => new Pollcast(options);

export class PollcastError extends Error {
  constructor(message, { status = 0, code = "", errors = [], retryAfter, event } = {}) {
    super(message);
    Object.assign(this, { name: "PollcastError", status, code, errors, retryAfter, event });
  }
}

class Pollcast {
  #url;
  #key;
  #newLink;
  #links = new Map(); // path -> Link
  #models;
  #records;
  #connected = true;
  #warned = new Set();
  #isAllowed = false; // true once this page could read a response, so CORS allows it
  #closed = new AbortController();
  #hub = new Hub({
    open: (last, signal, onPiece) => this.#stream("/api/events", last, signal, onPiece),
    scope: (signal) => patiently(signal, this.#report, () => this.#linked("/api/events")),
    report: (connected) => this.#report(connected),
  });

  constructor({ url = ownServer(), key, link, onConnection } = {}) {
    this.#url = url && String(url).replace(/\/+$/, "");
    this.#key = key;
    this.#newLink = link ? async (path) => link(path) : key && (async (path) => (await this.link(path)).url);
    this.#records = new Records(`pollcast:${digest(`${this.#url} ${key}`)}`);
    this.onConnection = onConnection;
  }

  // --- one request, one answer ---

  async request(path, { body, headers, ...options } = {}) {
    if (!this.#url) throw mistake("Give connect() the server's `url`: a bundled pollcast.js cannot know it.");
    const response = await this.#send(this.#url + path, () => ({
      method: body === undefined ? "GET" : "POST",
      cache: "no-store",
      ...options,
      headers: { ...(this.#key && { Authorization: `Bearer ${this.#key}` }), ...headers },
      body: body === undefined || body instanceof FormData || typeof body === "string" ? body : JSON.stringify(body),
    }));
    if (response.status === 204) return undefined;
    if (!response.ok || !isJson(response)) throw await this.#refusal(response);
    return overNetwork(response.json());
  }

  async link(path, ttl = 3600) {
    const made = await inTime((signal) => this.request("/api/links", { body: { path, ttl }, signal }));
    return { ...made, url: this.#here(made.url) };
  }

  cancel(job) {
    return this.request(`/api/jobs/${job}/cancel`, { method: "POST" });
  }

  upload(file) {
    if (typeof file === "string") return this.request("/api/assets", { body: { url: file } });
    const body = new FormData();
    body.append("file", file);
    return this.request("/api/assets", { body });
  }

  // --- jobs ---

  generate(order, { idempotencyKey = newKey(), ...options } = {}) {
    return this.#run(this.#records.add(idempotencyKey, order), options);
  }

  resume(options) {
    return this.#records.takeLeft().map((record) => this.#run(record, options));
  }

  watch(job, options) {
    if (job.includes("/")) return this.#watching((signal) => this.#alone(this.#remember(job), 0, signal), options);
    return this.#watching((signal) => (this.#key ? this.#watched(job, signal) : this.#own(job, 0, signal)), options);
  }

  watchAll({ onReady, ...options } = {}) {
    return this.#watching((signal) => this.#all(signal, onReady), { ...options, endless: true });
  }

  close() {
    this.#closed.abort();
  }

  #run(record, { onWaiting, ...options } = {}) {
    return this.#watching((signal) => this.#generated(record, signal, onWaiting), { ...options, order: record.order });
  }

  #watching(open, { signal, ...options } = {}) {
    return watching(open, { ...options, signal: AbortSignal.any([this.#closed.signal, signal].filter(Boolean)) });
  }

  /**
   * Sends an order and yields its events. A job is read in one of three ways:
   *
   * 1. The model is a text model: the job's own stream, because the feed has no deltas.
   * 2. The feed was ready before the order was sent, and the job is new: all of its events arrive in the feed.
   * 3. Otherwise the job may have events from before the feed was ready: after a reload, a repeated Idempotency-Key, or
   *    while the feed is still connecting. The earlier events are then read from the job's own stream.
   */
  async *#generated(record, signal, onWaiting) {
    let feed;
    try {
      if (await this.#isShared(record.order.model)) feed = this.#hub.join(signal);
      const inTime = this.#hub.isReady;
      const isNew = !record.job && (await this.#post(record, signal, onWaiting));
      if (!inTime) await feed?.ready();
      const events = feed
        ? this.#inFeed(feed, record.job, record.n, { all: isNew && inTime, signal })
        : this.#own(record.job, record.n, signal);
      for await (const event of events) {
        this.#records.save(record, { n: event.n });
        yield event;
      }
    } finally {
      feed?.leave();
      // The job is over or refused, or its reader has stopped. A reload does not run this.
      this.#records.remove(record);
    }
  }

  /** Sends an order. Resolves to true if the job is new, so that all of its events are still to come. */
  async #post(record, signal, onWaiting) {
    const headers = { "Idempotency-Key": record.key };
    const send = (signal) => this.request("/api/jobs", { body: record.order, headers, signal });
    const job = await patiently(signal, this.#report, () => inTime(send, signal), onWaiting);
    this.#remember(this.#here(job.links.events));
    this.#records.save(record, { job: job.id });
    return job.event === 1;
  }

  async *#watched(job, signal) {
    const feed = this.#hub.join(signal);
    try {
      await feed.ready();
      const newest = this.#hub.newest.get(job);
      yield* newest && (await this.#isShared(newest.model))
        ? this.#inFeed(feed, job, 0, { all: false, signal })
        : this.#own(job, 0, signal);
    } finally {
      feed.leave();
    }
  }

  /**
   * Yields a job's events after number `n` from the shared feed, until the final one. `all` means that the feed was
   * ready before the job existed. Three cases:
   *
   * 1. An event in the feed has the next number: it is yielded. An earlier one was already yielded and is skipped.
   * 2. Events are missing: a number is skipped, or a snapshot (`ready`) holds a newer event of the job. They are read
   *    from the job's own stream, until it has caught up with the feed.
   * 3. The feed does not hold the job at the start, or after a snapshot: it is over, or it is so new that its first event
   *    is still to come. The job's own stream answers both.
   */
  async *#inFeed(feed, job, n, { all, signal }) {
    // Infinity is case 3.
    const isBehind = () => (this.#hub.newest.get(job)?.n ?? Infinity) > n;
    for (let missing = !all && isBehind(); ;) {
      if (missing) {
        for await (const event of this.#own(job, n, signal)) {
          yield event;
          n = event.n;
          if (FINAL.has(event.status)) return;
          if (!isBehind()) break;
        }
      }
      const { event } = await feed.take();
      missing = event ? event.job === job && event.n > n + 1 : isBehind();
      if (event?.job === job && event.n === n + 1) {
        yield event;
        n = event.n;
        if (FINAL.has(event.status)) return;
      }
    }
  }

  async *#all(signal, onReady) {
    const feed = this.#hub.join(signal);
    const known = new Map(); // job -> the number of its newest event, while it is not over
    const isNews = ({ job, n, status, delta }) => {
      if (n <= known.get(job) || delta !== undefined) return false;
      if (FINAL.has(status)) known.delete(job);
      else known.set(job, n);
      return true;
    };
    try {
      const { isReady } = this.#hub;
      for (const event of [...this.#hub.newest.values()]) if (isNews(event)) yield event;
      if (isReady) onReady?.();
      for (;;) {
        const { event } = await feed.take();
        if (event) {
          if (isNews(event)) yield event;
          continue;
        }
        const over = [...known].filter(([job]) => !this.#hub.newest.has(job));
        for (const [job, n] of over) {
          for await (const event of this.#end(job, n, signal)) if (isNews(event)) yield event;
        }
        onReady?.();
      }
    } finally {
      feed.leave();
    }
  }

  /** Yields a job's events after number `n`, until it is over or deleted. */
  async *#end(job, n, signal) {
    try {
      yield* this.#own(job, n, signal);
    } catch (error) {
      if (!(error instanceof PollcastError)) throw error;
    }
  }

  // --- streams ---

  #own(job, n, signal) {
    return this.#alone(`/api/jobs/${job}/events`, n, signal);
  }

  /** Yields the events of a job's own stream after number `n`, up to the final one. */
  async *#alone(path, n, signal) {
    for await (const { data } of this.#stream(path, () => n || undefined, signal)) {
      const event = JSON.parse(data);
      n = event.n;
      yield event;
      if (FINAL.has(event.status)) return;
    }
  }

  /** Yields the messages of a stream until the server ends it. Each connection starts after the id `last()` returns. */
  async *#stream(path, last, signal, onPiece) {
    for (let pause = RETRY_DELAY; ; await sleep(pause, signal)) {
      const response = await patiently(signal, this.#report, () => this.#open(path, last(), signal));
      if (response.status === 204) return;
      try {
        yield* messages(response.body, (ms) => (pause = ms), onPiece);
      } catch (error) {
        if (signal.aborted) throw error;
      }
      this.#report(false);
    }
  }

  async #open(path, last, signal) {
    for (let refused = false; ; refused = true) {
      const link = await this.#linked(path, refused);
      // The id is in the query, because a header would cause a CORS preflight.
      const url = last === undefined ? link : `${link}&lastEventId=${last}`;
      const open = (signal) => this.#send(url, () => ({ cache: "no-store", referrerPolicy: "no-referrer", signal }));
      const response = await inTime(open, signal);
      if (isStream(response)) return response;
      if (response.ok && !/\/api\/.*[?&]signature=/.test(url)) throw mistake(`${url} is no Link, and gave no stream.`);
      const error = await this.#refusal(response);
      if (error.code !== "unauthorized" || refused || !this.#newLink) throw error;
    }
  }

  async #linked(path, refused = false) {
    const known = this.#links.get(path);
    const expires = Number(/[?&]expires=(\d+)/.exec(known)?.[1] ?? Infinity) * 1000;
    if (known && !refused && (Date.now() < expires - EXPIRY_MARGIN || !this.#newLink)) return known;
    if (!this.#newLink) throw new PollcastError(`There is no key, and no Link to ${path}.`, { code: "unauthorized" });
    // A TypeError of the caller's link() is a network error or a programming error. Before the first Link it counts
    // as the latter.
    const asked = this.#newLink(path);
    const link = await (known ? overNetwork(asked) : asked);
    if (typeof link !== "string") throw mistake(`link() gave no Link to ${path}, which would be a text.`);
    this.#links.set(path, link);
    return link;
  }

  #remember(link) {
    const path = /\/api\/jobs\/[^/?]+\/events(?=\?|$)/.exec(link)?.[0];
    if (!path) throw mistake(`${link} is no Link to a job's events, as its links.events is.`);
    this.#links.set(path, link);
    return path;
  }

  /** Returns a Link with the server's address that connect() was given. The server may have several addresses. */
  #here(link) {
    return this.#url + link.slice(apiIn(link));
  }

  // --- other ---

  async #isShared(model) {
    try {
      this.#models ??= inTime((signal) => this.request("/api/models", { signal }));
      return (await this.#models).models.find(({ id }) => id === model)?.kind !== "text";
    } catch {
      this.#models = undefined;
      return false; // a job's own stream always works, at the cost of one more connection
    }
  }

  async #send(url, options) {
    try {
      const response = await send(url, options);
      this.#isAllowed = true;
      return response;
    } catch (error) {
      if (lost.has(error) && !this.#isAllowed) this.#checkCors(url);
      throw error;
    }
  }

  /** Detects a refusal by CORS, which looks like a lost connection. Every origin may read pollcast.js. */
  async #checkCors(url) {
    const server = url.slice(0, Math.max(0, apiIn(url)));
    if (!server || !globalThis.location || this.#warned.has(server)) return;
    this.#warned.add(server);
    const ask = (path) => fetch(server + path, { method: "HEAD", cache: "no-store" });
    const isUp = () => ask("/pollcast.js").then(({ ok }) => ok, () => false);
    const isUnread = () => ask("/api/ping").then(() => false, () => true);
    const isRefused = (await isUp()) && (await isUnread()) && (await isUp());
    if (isRefused) console.warn(`pollcast.js: add ${origin} to POLLCAST_CORS_ORIGINS of ${server}, which refuses this page.`);
    else this.#warned.delete(server);
  }

  async #refusal(response) {
    const error = await refusal(response);
    if (!error.code && error.status < 500 && !this.#warned.has("front")) {
      this.#warned.add("front");
      console.warn(`pollcast.js: ${error.message} Is connect()'s url right?`);
    }
    return error;
  }

  #report = (connected) => {
    if (connected === this.#connected) return;
    this.#connected = connected;
    this.#hub.tell({ connected });
    this.onConnection?.(connected);
  };
}

/** Returns a promise of the Completed event that is also an async iterable of all events of `open`. */
function watching(open, { onEvent, signal, endless = false, order }) {
  const history = [];
  const readers = new Set();
  const left = new AbortController();
  const until = AbortSignal.any([signal, left.signal]);

  const read = async () => {
    let last;
    for await (last of open(until)) {
      watch.job = last.job;
      if (!endless) history.push(last);
      for (const reader of readers) reader.push(last);
      onEvent?.(last);
    }
    if (last?.status === "Completed") return last;
    const message = last?.message ?? "The stream is over, and had no final event.";
    throw new PollcastError(message, { code: last?.code ?? last?.status.toLowerCase(), event: last });
  };

  async function* events() {
    const reader = new Queue(history);
    readers.add(reader);
    // A reader receives every final event. Only errors without a final event are thrown.
    watch.then(
      () => reader.end(),
      (error) => reader.end(error?.event ? undefined : error),
    );
    try {
      for (let event; (event = await reader.take());) yield event;
    } finally {
      readers.delete(reader);
      if (endless) left.abort();
    }
  }

  const ended = Promise.resolve().then(read); // deferred, because `watch` must be assigned first
  const watch = endless ? ended.catch((error) => until.aborted || Promise.reject(error)).then(() => {}) : ended;
  return Object.assign(watch, { order, job: undefined, [Symbol.asyncIterator]: events });
}

/** Asynchronous queue. After end(), take() throws its error or returns undefined. */
class Queue {
  #items;
  #end;
  #wake = () => {};

  constructor(items = []) {
    this.#items = [...items];
  }

  push(item) {
    this.#items.push(item);
    this.#wake();
  }

  clear() {
    this.#items.length = 0;
  }

  end(error) {
    this.#end ??= { error };
    this.#wake();
  }

  async take() {
    while (!this.#items.length) {
      if (this.#end?.error) throw this.#end.error;
      if (this.#end) return undefined;
      await new Promise((wake) => (this.#wake = wake));
    }
    return this.#items.shift();
  }
}

/** The account's feed, read by one tab for all tabs. Members receive { event }, and { ready } after a snapshot. */
class Hub {
  newest = new Map(); // job -> its newest event, for unfinished jobs
  #position; // undefined until the snapshot is complete, and again after a reset
  #members = new Set();
  #leading = false;
  #channel;
  #heard; // time of the last message from the leading tab
  #stop;
  #server;

  constructor(server) {
    this.#server = server;
  }

  get isReady() {
    return this.#position !== undefined;
  }

  join(signal) {
    const queue = new Queue();
    const aborted = () => queue.end(signal.reason);
    signal.addEventListener("abort", aborted);
    if (signal.aborted) aborted();
    this.#members.add(queue);
    if (this.#members.size === 1) this.#start();
    return {
      take: () => queue.take(),
      ready: async () => {
        while (!this.isReady) await queue.take();
        queue.clear(); // the events are in `newest`, or their jobs are over
      },
      leave: () => {
        signal.removeEventListener("abort", aborted);
        this.#members.delete(queue);
        if (!this.#members.size) this.#stop.abort();
      },
    };
  }

  /** Sends a message to the other tabs if this tab leads. */
  tell(message) {
    if (this.#leading) this.#channel?.postMessage(message);
  }

  #start() {
    const { signal } = (this.#stop = new AbortController());
    globalThis.addEventListener?.("pagehide", () => this.#rest(), { signal });
    this.#run(signal).catch((error) => {
      if (signal.aborted) return;
      for (const member of this.#members) member.end(error);
      this.#members.clear();
    });
  }

  /** Releases the lock on `pagehide`. The back/forward cache would keep it, and block all other tabs. */
  #rest() {
    this.#stop.abort();
    const again = () => this.#members.size && this.#stop.signal.aborted && this.#start();
    globalThis.addEventListener("pageshow", again, { once: true });
  }

  async #run(signal) {
    const link = await this.#server.scope(signal);
    signal.throwIfAborted();
    // Tabs share a connection if their Links are equal except for expiry, signature and position.
    const name = `pollcast ${link.replace(/\b(expires|signature|lastEventId)=[^&]*&?/g, "")}`;
    const channel = (this.#channel = await sharing(name));
    if (!channel) return this.#lead(signal);
    try {
      channel.onmessage = ({ data }) => this.#hear(data);
      for (let steal = false; steal !== undefined;) steal = await this.#turn(name, steal, signal);
    } finally {
      channel.close();
    }
  }

  /**
   * Waits for the lock and leads. Resolves when the lock has to be requested again: to true if this tab has to steal it,
   * because the leading tab is silent.
   */
  async #turn(name, steal, signal) {
    const turn = new AbortController();
    const until = AbortSignal.any([signal, turn.signal]);
    this.#heard = Date.now();
    this.#channel.postMessage({ hello: true });
    const beating = setInterval(() => {
      if (this.#leading) this.tell({ beat: true });
      else if (Date.now() - this.#heard > LEADER_TIMEOUT) turn.abort();
    }, BEAT_INTERVAL);
    let lead;
    try {
      await navigator.locks.request(name, steal ? { steal } : { signal: until }, () => (lead = this.#lead(until)));
    } catch (error) {
      if (signal.aborted || error.name !== "AbortError") throw error;
      return turn.signal.aborted;
    } finally {
      clearInterval(beating);
      turn.abort();
      await lead?.catch(() => {});
    }
  }

  async #lead(signal) {
    const last = () => {
      if (!this.isReady) this.newest.clear();
      return this.#position;
    };
    this.#leading = true;
    try {
      this.#greet(); // tabs whose hello the previous leader did not answer
      // Each chunk is a sign of life as well, because browsers throttle the timers of hidden tabs.
      for await (const { id, type, data } of this.#server.open(last, signal, () => this.tell({ beat: true }))) {
        if (type === "reset") this.#reset();
        else if (type === "ready") this.#ready(id);
        else this.#happened(JSON.parse(data), id);
      }
    } finally {
      this.#leading = false;
    }
  }

  #hear({ hello, newest, event, id, reset, connected }) {
    if (!hello) this.#heard = Date.now();
    if (this.#leading) {
      if (hello) this.#greet();
    } else if (connected !== undefined) this.#server.report(connected);
    else if (reset) this.#reset();
    else if (event && this.isReady) this.#happened(event, id);
    else if (newest && !(Number(id) <= Number(this.#position))) {
      this.#reset(); // there is no position yet, or events were missed
      for (const event of newest) this.#happened(event);
      this.#ready(id);
    }
  }

  #greet() {
    if (this.isReady) this.tell({ newest: [...this.newest.values()], id: this.#position });
  }

  #happened(event, id) {
    if (Number(id) <= Number(this.#position)) return; // received twice, at a change of leaders
    if (FINAL.has(event.status)) this.newest.delete(event.job);
    else this.newest.set(event.job, event);
    for (const member of this.#members) member.push({ event });
    if (!this.isReady) return;
    this.#position = id;
    this.tell({ event, id });
  }

  #ready(id) {
    this.#position = id;
    for (const member of this.#members) member.push({ ready: true });
    this.#greet();
  }

  #reset() {
    this.newest.clear();
    this.#position = undefined;
    this.tell({ reset: true });
  }
}

/** Opens the channel of the tabs that share a connection. Resolves to undefined if the page is not allowed to share. */
async function sharing(name) {
  try {
    await navigator.locks.request(`${name} is allowed`, { mode: "shared" }, () => {});
    return new BroadcastChannel(name);
  } catch {
    return undefined;
  }
}

/** Unfinished orders, kept for a reload of this tab: `key` (the idempotency key), `order`, `job` and `n`. */
class Records {
  #name;
  #left = []; // from before the reload
  #open = [];

  constructor(name) {
    this.#name = name;
    try {
      this.#left = JSON.parse(sessionStorage.getItem(name)).filter(({ at }) => Date.now() - at < KEY_LIFETIME);
    } catch {
      // No stored orders, or no storage.
    }
  }

  takeLeft() {
    this.#open.push(...this.#left);
    return this.#left.splice(0);
  }

  add(key, order) {
    const record = { key, order: structuredClone(order), n: 0, at: Date.now() };
    this.#open.push(record);
    this.save(record);
    return record;
  }

  save(record, news) {
    Object.assign(record, news);
    this.#write();
  }

  remove(record) {
    this.#open = this.#open.filter((other) => other !== record);
    this.#write();
  }

  #write() {
    try {
      sessionStorage.setItem(this.#name, JSON.stringify([...this.#left, ...this.#open]));
    } catch {
      // No storage, or it is full: only a reload loses the orders.
    }
  }
}

/** Yields the messages of a text/event-stream body, parsed as the WHATWG HTML standard specifies. */
export async function* messages(body, onRetry = () => {}, onPiece = () => {}) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let [rest, id, type, data, afterCr] = ["", "", "", [], false];
  try {
    for (;;) {
      const { value, done } = await timely(reader.read());
      if (done) return; // an incomplete message is not dispatched
      onPiece();
      const text = afterCr && value[0] === "\n" ? value.slice(1) : value; // a CRLF may be split between two chunks
      if (value) afterCr = value.endsWith("\r");
      const lines = (rest + text).split(/\r\n|\r|\n/);
      rest = lines.pop();
      for (const line of lines) {
        const [, field, content = ""] = /^([^:]*)(?:: ?([^]*))?$/.exec(line);
        if (!line) {
          if (data.length) yield { id, type: type || "message", data: data.join("\n") };
          [type, data] = ["", []];
        } else if (field === "data") data.push(content);
        else if (field === "event") type = content;
        else if (field === "id" && !content.includes("\0")) id = content;
        else if (field === "retry" && /^\d+$/.test(content)) onRetry(Number(content));
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function timely(reading) {
  let timer;
  const silence = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new TypeError("The stream went silent.")), SILENCE_TIMEOUT);
  });
  try {
    return await Promise.race([reading, silence]);
  } finally {
    clearTimeout(timer);
  }
}

/** Fails if the response does not begin within `SILENCE_TIMEOUT`. Its body may take longer. */
async function inTime(ask, signal) {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(new TypeError("The server does not answer.")), SILENCE_TIMEOUT);
  try {
    return await ask(AbortSignal.any([signal, late.signal].filter(Boolean)));
  } finally {
    clearTimeout(timer);
  }
}

/** Repeats a request with growing delays, until it succeeds or fails permanently. */
async function patiently(signal, report, ask, onWaiting) {
  for (let pause = FIRST_DELAY; ; pause = Math.min(2 * pause, MAX_DELAY)) {
    try {
      const answer = await ask();
      report(true);
      return answer;
    } catch (error) {
      if (signal.aborted || !isPassing(error)) throw error;
      report(error.status === 429);
      onWaiting?.(error);
      await sleep(error.retryAfter > 0 ? error.retryAfter * 1000 : pause * (0.75 + Math.random() / 2), signal);
    }
  }
}

// Network errors. They are retried, unlike other TypeErrors.
const lost = new WeakSet();

const overNetwork = (answer) =>
  answer.catch((error) => {
    if (error?.name === "TypeError") lost.add(error);
    throw error;
  });

/** Calls fetch(). Invalid requests are refused first, so that every failure of fetch() is a network error. */
function send(url, options) {
  let request;
  try {
    request = new Request(url, options());
    if (!/^https?:/.test(request.url)) throw new Error(`${request.url} is not http or https.`);
  } catch (error) {
    throw mistake(`This cannot be sent: ${error.message}`);
  }
  return overNetwork(fetch(request));
}

const isJson = (response) => /^application\/json\b/i.test(response.headers.get("Content-Type"));

const isStream = ({ ok, status, headers }) =>
  status === 204 || (ok && /^text\/event-stream\b/i.test(headers.get("Content-Type")));

const mistake = (message) => new PollcastError(message, { code: "bad_request" });

/** Returns the error for an unsuccessful response. It has a code only if Pollcast itself answered. */
async function refusal(response) {
  const { status } = response;
  const said = isJson(response) ? await response.json().catch(() => {}) : response.body?.cancel().catch(() => {});
  const retryAfter = Number(response.headers.get("Retry-After")) || undefined;
  if (said?.status === "Error" && said.code) return new PollcastError(said.message, { ...said, status, retryAfter });
  const type = response.headers.get("Content-Type") ?? "no content type";
  const place = response.url.split("?")[0]; // without a Link's signature
  const message = `${place} answered ${status} (${type}), which is not an answer of Pollcast.`;
  return new PollcastError(message, { status, retryAfter });
}

/** Returns true for transient errors: the network, a limit, an unavailable server or a proxy, but not a provider. */
function isPassing(error) {
  if (lost.has(error)) return true;
  if (error?.name !== "PollcastError" || !error.status) return false;
  return error.code ? ["rate_limited", "unavailable"].includes(error.code) : !PERMANENT_STATUSES.has(error.status);
}

/** Returns the index of the server's path in its URL. The address may also contain `/api/` (https://api/api). */
const apiIn = (url) => url.split("?")[0].lastIndexOf("/api/");

/** Returns the server's address if this module was loaded from it. A bundle's address does not identify the server. */
function ownServer() {
  try {
    return /^(https?:(?!.*\/node_modules\/)[^?#]+)\/pollcast\.js(?:[?#]|$)/.exec(import.meta.url)?.[1];
  } catch {
    return undefined; // Bundlers warn about import.meta in scripts that are not modules, except inside `try`.
  }
}

/** Waits for `ms`, or until the browser is online again. */
function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      globalThis.removeEventListener?.("online", done);
      if (signal.aborted) reject(signal.reason);
      else resolve();
    };
    const timer = setTimeout(done, Math.min(ms, MAX_PAUSE));
    signal.addEventListener("abort", done);
    globalThis.addEventListener?.("online", done);
    if (signal.aborted) done();
  });
}

/** Returns 128 random bits. crypto.randomUUID needs a secure page, and some pages have no crypto at all. */
function newKey() {
  const bytes = new Uint8Array(16).map(() => Math.random() * 256);
  globalThis.crypto?.getRandomValues?.(bytes);
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** FNV-1a hash. It distinguishes accounts in storage and does not reveal the key. */
function digest(text) {
  const hash = [...text].reduce((hash, letter) => Math.imul(hash ^ letter.codePointAt(0), 16777619), 2166136261);
  return (hash >>> 0).toString(36);
}
