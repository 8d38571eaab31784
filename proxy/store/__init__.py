"""What remembers: accounts, tokens, jobs, events, assets."""
