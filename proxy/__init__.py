"""Pollcast: one server-sent-events stream for every generation provider.

A folder is a layer. It may import the folders below it in this list (checked by import-linter):

    cli          the commands: serve, keys, check, doctor, trace, jobs
    serving      uvicorn with our HTTP/1.1 protocol; worker processes
    app          the ASGI application: builds, starts and stops every part
    api, runner  HTTP for clients; the work on jobs. They meet only in the store
    providers    the registry, and adapters, which it finds: classes, and the TOML of `files`. `base` is their contract
    streams      from the event log to the socket
    upstream     HTTP to providers and to clients' URLs
    store        accounts, jobs, events and assets, in SQLite or Redis
    telemetry    logs, metrics and traces
    core         words and rules: no I/O, no web framework

`simulator` pretends to be the providers, one file each, and imports nothing of the rest. `playground`, `deploy` and
`docs` hold files.

The way of an order:

    POST /api/generate -> api/endpoints/jobs: authenticate, count, parse (api/orders)
      -> store.admit: idempotency key, charge, job, event 1, in one transaction
    runner/runner -> store.claim -> runner/job_run
      -> runner/submission: provider.prepare -> store.record_intent -> provider.submit -> ticket recorded
      -> runner/polling: provider.check -> upstream/client -> the provider
      -> runner/recording: Update -> store.append: event n (the final one refunds), in one transaction
            | the log: the only source of truth
    store.changes() -> streams/feed: one tail per watched job -> one timer -> publish
      -> streams/stream, the body of streams/responses -> serving/protocol: push -> EventSource, curl, app
"""
