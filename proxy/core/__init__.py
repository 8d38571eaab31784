"""The words and rules: no I/O, no web framework."""
