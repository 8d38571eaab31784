"""uvicorn, with our protocol, server and worker processes."""
