"""HTTP to providers and to clients' URLs."""
