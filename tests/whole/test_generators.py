"""Clients that are generated from /openapi.json: they compile, order, upload and read a stream."""

import asyncio
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from tests.support.deployment import Deployment
from tests.support.npm import install, without

pytestmark = [pytest.mark.wide, pytest.mark.timeout(400)]

PYTHON = """
import sys
from io import BytesIO
from pathlib import Path

from pollcast_client import AuthenticatedClient
from pollcast_client.api.assets import create_asset
from pollcast_client.api.jobs import get_job, watch_job
from pollcast_client.api.orders import create_job, generate
from pollcast_client.models import AvatarH1, CreateAssetBody, Gaga1, Job, Suno
from pollcast_client.models.asset import Asset
from pollcast_client.types import File

origin, key, picture, sound = sys.argv[1:]


def upload(client: AuthenticatedClient, path: Path) -> str:
    body = CreateAssetBody(file=File(payload=BytesIO(path.read_bytes()), file_name=path.name))
    asset = create_asset.sync(client=client, body=body)
    assert isinstance(asset, Asset), asset
    return asset.id


with AuthenticatedClient(base_url=origin, token=key) as client:
    image, audio = upload(client, Path(picture)), upload(client, Path(sound))
    job = create_job.sync(client=client, body=AvatarH1(model="avatar-h1", image=image, audio=audio))
    assert isinstance(job, Job), job
    seen = watch_job.sync(client=client, job=job.id)
    assert isinstance(seen, str) and '"status":"Completed"' in seen, seen
    found = get_job.sync(client=client, job=job.id)
    assert isinstance(found, Job) and found.status == "Completed"
    streamed = generate.sync(client=client, body=Gaga1(model="gaga-1", prompt="Hello"), idempotency_key="one")
    assert isinstance(streamed, str) and '"status":"Completed"' in streamed, streamed
    assert isinstance(create_job.sync(client=client, body=Suno(model="suno", prompt="A song")), Job)
print("done")
"""
COMMON = """
import { readFileSync } from "node:fs";
const [origin = "", key = "", picture = ""] = process.argv.slice(2);
const bytes = new Blob([readFileSync(picture)], { type: "image/png" });
function check(right: unknown, what: unknown): asserts right { if (!right) throw new Error(JSON.stringify(what)); }
"""
HEY_API = f"""
import {{ createClient }} from "./made/client/index.js";
import {{ createAsset, createJob, generate }} from "./made/sdk.gen.js";
{COMMON}
const client = createClient({{ baseUrl: origin, auth: key }});
const asset = await createAsset({{ client, body: {{ file: bytes }} }});
check(asset.data?.id, asset.error);
const body = {{ model: "gaga-1", prompt: "Hello", image: asset.data.id }} as const;
const job = await createJob({{ client, body }});
check(job.data && "links" in job.data, job.error);
const {{ stream }} = await generate({{ client, body, sseMaxRetryAttempts: 1 }});
let last = "";
for await (const event of stream) if (typeof event === "object" && "status" in event) last = event.status;
check(last === "Completed", last);
console.log("done");
"""
OPENAPI_FETCH = f"""
import createClient from "openapi-fetch";
import type {{ paths }} from "./made.js";
{COMMON}
const client = createClient<paths>({{ baseUrl: origin, headers: {{ Authorization: `Bearer ${{key}}` }} }});
const asset = await client.POST("/api/assets", {{
  body: {{ file: bytes as unknown as string }},
  bodySerializer: ({{ file }}) => {{
    const form = new FormData();
    form.append("file", file as unknown as Blob, "image.png");
    return form;
  }},
}});
check(asset.data?.id, asset.error);
const body = {{ model: "gaga-1", prompt: "Hello", image: asset.data.id }} as const;
const job = await client.POST("/api/jobs", {{ body }});
check(job.data && "links" in job.data, job.error);
const watched = await client.POST("/api/generate", {{ body, parseAs: "stream" }});
check(watched.data, watched.error);
let text = "";
for await (const piece of watched.data.pipeThrough(new TextDecoderStream())) text += piece;
check(text.includes('"status":"Completed"'), text);
console.log("done");
"""
TSCONFIG = """{
  "compilerOptions": {
    "strict": true, "target": "es2022", "module": "nodenext", "moduleResolution": "nodenext", "outDir": "out",
    "lib": ["es2023", "dom", "dom.iterable", "dom.asynciterable"], "types": ["node"], "skipLibCheck": true
  },
  "files": ["program.ts"]
}"""


async def run(folder: Path, *command: object) -> str:
    """Return the output of a command. Fails if the command fails."""

    def work() -> str:
        done = subprocess.run(  # noqa: S603
            [str(word) for word in command],
            cwd=folder,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    return await asyncio.to_thread(work)


async def described(deployment: Deployment, folder: Path) -> Path:
    place = folder / "openapi.json"
    place.write_bytes(orjson.dumps((await deployment.http.get("/openapi.json")).json()))
    return place


def media(folder: Path) -> list[Path]:
    found = []
    for kind, name in (("image", "image.png"), ("audio", "audio.mp3")):
        (folder / name).write_bytes(Deployment.media(kind))
        found.append(folder / name)
    return found


async def test_a_python_client_orders_uploads_and_streams(deployment: Deployment, tmp_path: Path) -> None:
    await run(tmp_path, sys.executable, "-m", "venv", "own")
    python = tmp_path / "own" / "bin" / "python"
    wanted = ("openapi-python-client==0.29.1", "mypy>=2,<3", "types-python-dateutil")
    install_ = (str(python), "-m", "pip", "install", "--quiet", *wanted)
    if (await asyncio.to_thread(subprocess.run, install_, check=False, timeout=200)).returncode:
        without("pip cannot install openapi-python-client here")
    document = await described(deployment, tmp_path)
    generator = tmp_path / "own" / "bin" / "openapi-python-client"
    await run(tmp_path, generator, "generate", "--path", document, "--meta", "none", "--output-path", "pollcast_client")
    (tmp_path / "program.py").write_text(PYTHON)
    await run(tmp_path, python, "-m", "mypy", "program.py")
    assert (await run(tmp_path, python, "program.py", deployment.origin, deployment.key, *media(tmp_path))).endswith(
        "done\n"
    )


async def node(deployment: Deployment, folder: Path, program: str) -> None:
    (folder / "program.ts").write_text(program)
    await run(folder, folder / "node_modules" / ".bin" / "tsc")
    picture, _ = media(folder)
    written = await run(folder, "node", "out/program.js", deployment.origin, deployment.key, picture)
    assert written.endswith("done\n")


async def test_hey_api_s_client_orders_uploads_and_streams(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "tsconfig.json").write_text(TSCONFIG)  # the generator reads it too
    install(tmp_path, "@hey-api/openapi-ts@0.95.0", "typescript@5.9.3", "@types/node@20")
    document = await described(deployment, tmp_path)
    generator = tmp_path / "node_modules" / ".bin" / "openapi-ts"
    await run(tmp_path, generator, "-i", document, "-o", "made", "-c", "@hey-api/client-fetch")
    await node(deployment, tmp_path, HEY_API)


async def test_openapi_fetch_orders_uploads_and_streams(deployment: Deployment, tmp_path: Path) -> None:
    wanted = ("openapi-typescript@7.13.0", "openapi-fetch@0.17.0", "typescript@5.9.3", "@types/node@20")
    (tmp_path / "tsconfig.json").write_text(TSCONFIG)
    install(tmp_path, *wanted)
    document = await described(deployment, tmp_path)
    await run(tmp_path, tmp_path / "node_modules" / ".bin" / "openapi-typescript", document, "-o", "made.ts")
    await node(deployment, tmp_path, OPENAPI_FETCH)
