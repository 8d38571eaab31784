import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from proxy.store.redis import RedisStore
from tests.store.contract import LEASE, ManualClock, Opened, StoreContract


class Server:
    def __init__(self, folder, binary):
        self.folder=folder; self.binary=binary
        with socket.create_server(("127.0.0.1",0)) as s: self.port=s.getsockname()[1]
        self.start()
    @property
    def url(self): return f"redis://127.0.0.1:{self.port}/0"
    def start(self):
        self.process = subprocess.Popen([self.binary,"--port",str(self.port),"--bind","127.0.0.1","--dir",str(self.folder),"--appendonly","yes","--appendfsync","always","--save",""],stdout=subprocess.DEVNULL)
        while True:
            try:
                with redis.Redis(port=self.port) as r: r.ping(); return
            except redis.ConnectionError: time.sleep(.02)
    def stop(self):
        self.process.kill(); self.process.wait()

@pytest.fixture(scope="session")
def server(tmp_path_factory):
    s=Server(tmp_path_factory.mktemp("redis"), os.environ.get("REDIS_BIN", "redis-server"))
    yield s
    s.stop()

@pytest.fixture
def url(server):
    with redis.Redis(port=server.port) as r: r.flushdb()
    return server.url

@pytest.fixture
def clock(): return ManualClock()

class TestRedisStore(StoreContract):
    @pytest.fixture
    def opened(self, url, clock) -> Opened:
        return lambda: RedisStore(url, clock, lease=LEASE)
