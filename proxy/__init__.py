"""Pollcast: one server-sent-events stream for every generation provider."""
