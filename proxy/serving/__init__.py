"""Serving: uvicorn with its own protocol, server and worker processes."""
