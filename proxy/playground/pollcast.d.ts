/** Types of pollcast.js, the browser client of Pollcast. It runs unmodified in browsers of 2024 and later. */

export type Status = "Processing started" | "Processing" | "Completed" | "Error" | "Canceled";

/** One result of a job, or an item of a bulk order that failed. */
export interface Output {
  /** URL of the result. Anyone who has it can open it. Absent for a failed item. */
  url?: string;
  role: "video" | "image" | "audio" | "text" | "page" | "thumbnail";
  /** The media type. */
  type: string;
  unique_id?: string;
  status?: "Completed" | "Error";
  message?: string;
  thumbnail_url?: string;
  /** The provider's ids, as strings. */
  [id: string]: string | undefined;
}

/** Fields of all events, and optional fields that can be read before the `status` is known. */
interface Common {
  /** The job's id. */
  job: string;
  model: string;
  /** Number of the event in its job: 1, 2, 3 ... without gaps. */
  n: number;
  /** Time of the event, RFC 3339 in UTC. */
  at: string;
  /** The provider's status word. */
  detail?: string;
  /** Percent, 0 to 100, if the provider reports it. */
  progress?: number;
  /** Outputs finished since the previous event. On `Completed`, all outputs. */
  outputs?: Output[];
  /** A piece of a text. `offset` is its position in characters. */
  delta?: string;
  offset?: number;
  /** URL of the first output. */
  url?: string;
  /** Complete text of a text model, at the end of the job. */
  text?: string;
  /** Reason why a text ends, if the provider reports it. `length` and `content_filter` mean that it is cut off. */
  finish_reason?: "stop" | "length" | "content_filter";
  /** Reason of a failure, for people. */
  message?: string;
  /** Error code, for programs. Absent for a canceled job. */
  code?: string;
  /** Refunded tokens. A completed job is refunded for items or images that failed. */
  refunded?: number;
  /** Metadata of the order, at the end of the job. */
  metadata?: Record<string, string>;
}

/** The job is recorded or in progress. */
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

/** An order: the model, its fields on the top level, and the fields that every model accepts. */
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
  /** Number of the newest event. */
  event: number;
  detail?: string;
  progress?: number;
  /** Estimated remaining seconds of an unfinished job, once enough jobs of the model have completed. */
  eta?: { low: number; high: number };
  /** Time of the last poll of an unfinished job. Only the node that polls reports it. */
  polled_at?: string;
  url?: string;
  outputs?: Output[];
  message?: string;
  code?: string;
  /** Complete text of a text model, at the end of the job. */
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
  /** Value for an order's `image`, `images`, `audio` or `background`. */
  id: string;
  type: string;
  /** Size in bytes. */
  size: number;
  /** A Link to its bytes. */
  url: string;
  created_at: string;
}

/** An error response, a job that did not complete, or a request that cannot be sent. */
export class PollcastError extends Error {
  constructor(
    message: string,
    about?: Partial<Pick<PollcastError, "status" | "code" | "errors" | "retryAfter" | "event">>,
  );
  name: "PollcastError";
  /** HTTP status. 0 if the error is not a response. */
  status: number;
  /**
   * Error code of the API, such as `insufficient_tokens` or `upstream_failed`. `canceled` for a canceled job. Empty if a
   * proxy or firewall in front of the server responded.
   */
  code: string;
  /** Invalid fields of an order that was refused with 422. */
  errors: { field: string; message: string }[];
  /** Seconds to wait before a retry, if the server sends them. */
  retryAfter?: number;
  /** The final event, at the end of a job. */
  event?: Failed | Canceled;
}

/**
 * A watched job. As a promise it resolves to the `Completed` event, and rejects with a PollcastError for every other
 * final event. As an async iterable it yields all events, including every kind of final event.
 */
export interface Watch extends Promise<Completed>, AsyncIterable<Event> {
  /** The job's id. Known from the first event at the latest. */
  readonly job?: string;
  /** The order, for generate() and resume(). */
  readonly order?: Order;
}

export interface WatchOptions {
  /** Called once with each event, in order. An exception rejects the promise. */
  onEvent?: (event: Event) => void;
  /** Stops watching and rejects with the signal's reason. The job continues; use cancel() to end it. */
  signal?: AbortSignal;
}

export interface OrderOptions extends WatchOptions {
  /**
   * Called each time before the order is sent again, with the reason: a PollcastError (limit reached, server not ready)
   * or a network error. Aborting `signal` then withdraws the order, unless the server has already received it.
   */
  onWaiting?: (error: Error) => void;
}

export interface Options {
  /**
   * Address of the server. Default: the address that pollcast.js was loaded from. Required in a bundle: without it every
   * call to the server rejects with `bad_request`.
   */
  url?: string | URL;
  /** API key of the account. Without a key only watch() and watchAll() work, with Links. */
  key?: string;
  /**
   * Returns a Link to a path (`/api/events`, `/api/jobs/.../events`) from your backend, for pages without a key. Called
   * again shortly before a Link expires, and when one is refused. An exception rejects the watch. One exception is
   * retried: a TypeError, as fetch() throws without a network, after an earlier Link to the same path.
   */
  link?: (path: string) => string | Promise<string>;
  /** Called when the connection is lost (false) or restored (true). */
  onConnection?: (connected: boolean) => void;
}

export interface Pollcast {
  /**
   * Places an order and watches the job. While the server is unreachable or a limit is reached, it retries with the same
   * Idempotency-Key, so that only one job is created. A refused order rejects. After a reload use resume().
   */
  generate(order: Order, options?: OrderOptions & { idempotencyKey?: string }): Watch;

  /**
   * Resumes the unfinished orders of this tab after a reload, with one Watch for each. An order whose response was lost is
   * sent again with its Idempotency-Key. A running job is watched from its last event.
   */
  resume(options?: OrderOptions): Watch[];

  /** Watches a job from its first event, by its id (with a key) or by a Link to its events (without a key). */
  watch(jobOrLink: string, options?: WatchOptions): Watch;

  /**
   * Watches all jobs of the account: first the newest event of each unfinished job, then all further events without
   * deltas of texts. Ends with its signal, or when a `for await` loop over it ends. All tabs share one connection.
   */
  watchAll(
    options?: WatchOptions & {
      /** Called after the first events, and again after a gap. State read from the server from then on misses no event. */
      onReady?: () => void;
    },
  ): Promise<void> & AsyncIterable<Event>;

  /** Requests cancellation and resolves to the job, which may still complete. Rejects with `conflict` if it is over. */
  cancel(job: string): Promise<Job>;

  /** Uploads a file, or the content of a public https URL. */
  upload(file: Blob | string): Promise<Asset>;

  /** Creates a Link to an `events`, `content` or asset path. `ttl` is in seconds, 3600 by default. */
  link(path: string, ttl?: number): Promise<{ url: string; expires_at: string }>;

  /** Calls any other path of the API, such as `request("/api/account")`. `body` and result are JSON. */
  request<Answer = any>(path: string, options?: Omit<RequestInit, "body"> & { body?: unknown }): Promise<Answer>;

  /** Stops all watches. */
  close(): void;
}

export function connect(options?: Options): Pollcast;

export interface Message {
  id: string;
  /** `message` if the stream names no type. */
  type: string;
  data: string;
}

/** Yields the messages of any text/event-stream body, parsed as the WHATWG HTML standard specifies. */
export function messages(
  body: ReadableStream<Uint8Array>,
  onRetry?: (milliseconds: number) => void,
  onPiece?: () => void,
): AsyncGenerator<Message, void>;
