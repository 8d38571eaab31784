"""Streams: from the event log to the client's socket."""
