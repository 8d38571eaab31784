"""The work: claims jobs, submits orders, polls, records events."""
