/** The types of pollcast.js, the browser client of Pollcast. Every browser of 2024 or later runs it as it is. */

export type Status = "Processing started" | "Processing" | "Completed" | "Error" | "Canceled";

/** One thing that the provider made, or (in bulk) failed to make. */
export interface Output {
  /** Can be opened by whoever has it; absent for an item that failed. */
  url?: string;
  role: "video" | "image" | "audio" | "text" | "page" | "thumbnail";
  /** The media type. */
  type: string;
  unique_id?: string;
  status?: "Completed" | "Error";
  message?: string;
  thumbnail_url?: string;
  /** The provider's own ids, as text. */
  [id: string]: string | undefined;
}

/** What every event of a job carries, and what some do: it may be asked of any event before its `status` is known. */
interface Common {
  /** The job's id. */
  job: string;
  model: string;
  /** 1, 2, 3 ... without gaps in a job. */
  n: number;
  /** RFC 3339, UTC. */
  at: string;
  /** The provider's own word. */
  detail?: string;
  /** 0 to 100; only where the provider tells. */
  progress?: number;
  /** Those that were finished since the last event; all of them, of a completed job. */
  outputs?: Output[];
  /** A piece of a text, and where it begins, in characters. */
  delta?: string;
  offset?: number;
  /** The first output's. */
  url?: string;
  /** Of a text model, at its end. */
  text?: string;
  /** Why a text ends there, where the provider says so: `length` and `content_filter` cut it short. */
  finish_reason?: "stop" | "length" | "content_filter";
  /** Why there is no result, for a person. */
  message?: string;
  /** The same for a program; absent when canceled. */
  code?: string;
  /** Tokens; of a completed job, for the items or images that were not made. */
  refunded?: number;
  /** The order's own, at the end. */
  metadata?: Record<string, string>;
}

/** The job is recorded, or goes on. */
export interface Progress extends Common {
  status: "Processing started" | "Processing";
}

export interface Completed extends Common {
  status: "Completed";
  url: string;
  outputs: Output[];
}

export interface Failed extends Common {
  status: "Error";
  message: string;
  code: string;
  refunded: number;
}

export interface Canceled extends Common {
  status: "Canceled";
  message: string;
  refunded: number;
}

/** Exactly one `Completed`, `Failed` or `Canceled` ends a job. */
export type Event = Progress | Completed | Failed | Canceled;

/** A model, its fields, flat, and what goes with every model. */
export interface Order {
  model: string;
  metadata?: Record<string, string>;
  extra?: Record<string, unknown>;
  [field: string]: unknown;
}

export interface Job {
  id: string;
  model: string;
  status: Status;
  /** The newest event's number. */
  event: number;
  detail?: string;
  progress?: number;
  /** Whole seconds to its end; while it is unfinished, once enough jobs of the model were completed there. */
  eta?: { low: number; high: number };
  /** When the provider was last asked; while it is unfinished, from the node that asks. */
  polled_at?: string;
  url?: string;
  outputs?: Output[];
  message?: string;
  code?: string;
  /** Of a text model, at its end. */
  finish_reason?: "stop" | "length" | "content_filter";
  tokens: number;
  refunded: number;
  metadata: Record<string, string>;
  created_at: string;
  updated_at: string;
  order: Order;
  links: { self: string; events: string; content: string };
}

export interface Asset {
  /** What an order's `image`, `images`, `audio` or `background` takes. */
  id: string;
  type: string;
  /** In bytes. */
  size: number;
  /** A Link to its bytes. */
  url: string;
  created_at: string;
}

/** An answer that is an error, the end of a job that did not complete, or what cannot be sent as it is. */
export class PollcastError extends Error {
  constructor(
    message: string,
    about?: Partial<Pick<PollcastError, "status" | "code" | "errors" | "retryAfter" | "event">>,
  );
  name: "PollcastError";
  /** The HTTP status; 0 where no answer is the reason. */
  status: number;
  /**
   * The contract's word, such as `insufficient_tokens` or `upstream_failed`; `canceled` for a canceled job; empty if
   * the answer is not the server's own but that of a proxy or firewall in front of it.
   */
  code: string;
  /** What is wrong with which field, of an order that was refused with 422. */
  errors: { field: string; message: string }[];
  /** Seconds after which it may be tried again, where the server says so. */
  retryAfter?: number;
  /** The final event, at the end of a job. */
  event?: Failed | Canceled;
}

/**
 * A job that is being watched. As a promise it gives the `Completed` event and rejects with a PollcastError for any
 * other end; as an async iterable it gives every event from the first, the final one of any kind included.
 */
export interface Watch extends Promise<Completed>, AsyncIterable<Event> {
  /** The job's id, once it is known: with the first event at the latest. */
  readonly job?: string;
  /** What was ordered; of generate() and resume(). */
  readonly order?: Order;
}

export interface WatchOptions {
  /** Is called with every event, in order, each once. What it throws rejects the promise. */
  onEvent?: (event: Event) => void;
  /** Ends the watching, and rejects with its reason. The job itself goes on: see cancel(). */
  signal?: AbortSignal;
}

export interface OrderOptions extends WatchOptions {
  /**
   * Is told each time why the order has to be sent again: a PollcastError of a limit or of a server that is not ready, or
   * the network's own error. An abort of `signal` then takes the order back, unless the server had it already.
   */
  onWaiting?: (error: Error) => void;
}

export interface Options {
  /**
   * Where the server is; by default where pollcast.js came from. In a bundle, which comes from elsewhere, it has to be
   * given: without it every call to the server rejects with `bad_request`.
   */
  url?: string | URL;
  /** The account's key. Without one only watch() and watchAll() work, by Links. */
  key?: string;
  /**
   * Gives a Link to a path (`/api/events`, `/api/jobs/.../events`): asks your backend for one, where there is no key.
   * It is called again shortly before a Link expires, and when one is refused. What it throws rejects the watching;
   * when it gave a Link to that path before, a TypeError, as fetch() throws without a network, is waited out instead.
   */
  link?: (path: string) => string | Promise<string>;
  /** Is told when the connection is lost (false) and when it is there again (true). */
  onConnection?: (connected: boolean) => void;
}

export interface Pollcast {
  /**
   * Orders, and watches the job. While the server is away, or a limit is reached, it goes on trying, always with the
   * same Idempotency-Key, so that the job is made once; an order that is refused rejects. After a reload see resume().
   */
  generate(order: Order, options?: OrderOptions & { idempotencyKey?: string }): Watch;

  /**
   * The orders of this tab that were not over when the page was reloaded, each as generate() gave it: one whose answer
   * was lost is sent again under its Idempotency-Key; one that runs is watched on after its last event.
   */
  resume(options?: OrderOptions): Watch[];

  /** A job from its first event, by its id (with a key) or by a Link to its events (without). */
  watch(jobOrLink: string, options?: WatchOptions): Watch;

  /**
   * All jobs of the account: the newest event of each unfinished one, then everything that happens, but no pieces of
   * text. It goes on until its signal, or until a `for await` over it is left. All tabs share one connection for it.
   */
  watchAll(
    options?: WatchOptions & {
      /** Is called after that beginning: what is asked of the server from now on misses nothing. Again after a gap. */
      onReady?: () => void;
    },
  ): Promise<void> & AsyncIterable<Event>;

  /** Asks for a job's end, which may come first. The job, or a PollcastError `conflict` when it is over. */
  cancel(job: string): Promise<Job>;

  /** Brings in a file, or what is at a public https URL. */
  upload(file: Blob | string): Promise<Asset>;

  /** Makes a Link to an `events`, `content` or asset path; `ttl` in seconds, 3600 by default. */
  link(path: string, ttl?: number): Promise<{ url: string; expires_at: string }>;

  /** Any other call of the API, such as `request("/api/account")`: JSON in (`body`) and out; may reject. */
  request<Answer = any>(path: string, options?: Omit<RequestInit, "body"> & { body?: unknown }): Promise<Answer>;

  /** Ends all watching. */
  close(): void;
}

export function connect(options?: Options): Pollcast;

export interface Message {
  id: string;
  /** `message`, where the stream names none. */
  type: string;
  data: string;
}

/** The messages of a text/event-stream body, read as the WHATWG standard has it, for streams of your own. */
export function messages(
  body: ReadableStream<Uint8Array>,
  onRetry?: (milliseconds: number) => void,
  onPiece?: () => void,
): AsyncGenerator<Message, void>;
