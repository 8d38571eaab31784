"""Metrics across worker processes."""

import asyncio
from pathlib import Path

import pytest

from proxy.telemetry.worker_metrics import WorkerMetrics

METRICS = b"# HELP x Something.\n# TYPE x gauge\nx 1234.0\n"


@pytest.mark.parametrize("length", [0, len(METRICS) - 7, len(METRICS) - 5])
async def test_a_worker_killed_while_answering_leaves_the_other_metrics_intact(tmp_path: Path, length: int) -> None:
    async def killed(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(METRICS[:length])
        writer.close()

    well = WorkerMetrics(tmp_path, 0)
    async with well.serve(lambda: METRICS), await asyncio.start_unix_server(killed, tmp_path / "1"):
        assert b'x{worker="0"} 1234.0' in (told := await well.scrape())
        assert b'worker="1"' not in told
