"""From the event log to the socket."""
