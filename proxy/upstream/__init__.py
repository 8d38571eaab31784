"""HTTP requests to providers and to clients' URLs."""
