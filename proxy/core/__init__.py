"""Records and rules that every layer shares. They do no I/O and know no web framework."""
