"""pollcast.d.ts: the documented examples compile in strict TypeScript, and the types match the JSON models."""

import re
import subprocess
from pathlib import Path

import pytest
from pydantic import BaseModel

from proxy.api.openapi import shapes
from tests.support.npm import install
from tests.support.root import PAGES, ROOT, blocks

PLAYGROUND = ROOT / "proxy" / "playground"
TYPES = (PLAYGROUND / "pollcast.d.ts").read_text()
SERVER = "http://127.0.0.1:8000"
AROUND = """
declare const key: string, jobId: string, jobIdOrLink: string, signal: AbortSignal, file: File;
declare const show: (done: object) => void, complain: (error: Error) => void;
declare const update: (job: string, status: string) => void;
"""
"""Declarations of the names that the examples do not declare."""
ENDS = f"""
import {{ PollcastError, type Event }} from "{SERVER}/pollcast.js";

export function told(event: Event): string {{
  switch (event.status) {{
    case "Completed":
      return event.url + event.outputs.length;
    case "Error":
      return event.message + event.code.toUpperCase() + event.refunded.toFixed();
    case "Canceled":
      return event.message + event.refunded.toFixed();
    default:
      // @ts-expect-error: none yet
      event.url.length;
      return event.detail ?? "";
  }}
}}
export const failed = (error: unknown) => (error instanceof PollcastError ? error.event?.message : undefined);
"""
COPIED = """
import { asJavaScript } from "./dom.js";
const order = { model: "pika", prompt: "It's a `lake`", style: "4", camera: { zoom: 2 }, images: ["a", "b"] };
console.log(asJavaScript(process.argv[2], order));
"""


@pytest.fixture(scope="module")
def typescript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the compiler, in which the server's module is a local file."""
    folder = install(tmp_path_factory.mktemp("types"), "typescript@5")
    for name in ("pollcast.d.ts", "dom.js"):
        (folder / name).write_text((PLAYGROUND / name).read_text())
    (folder / "tsconfig.json").write_text(f"""{{
      "compilerOptions": {{
        "strict": true, "noEmit": true, "exactOptionalPropertyTypes": true, "target": "es2022", "module": "esnext",
        "moduleResolution": "bundler", "lib": ["es2022", "dom", "dom.iterable"], "types": [],
        "paths": {{ "{SERVER}/pollcast.js": ["./pollcast.d.ts"] }}
      }},
      "files": ["snippet.ts"]
    }}""")
    return folder


def complaints(typescript: Path, snippet: str) -> str:
    (typescript / "snippet.ts").write_text(snippet)
    compiler = typescript / "node_modules" / ".bin" / "tsc"
    return subprocess.run([compiler], cwd=typescript, check=False, timeout=60, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603


@pytest.mark.timeout(120)
@pytest.mark.parametrize("path", [ROOT / "README.md", PAGES / "api.md"], ids=lambda path: path.name)
def test_the_examples_of_the_client_compile(typescript: Path, path: Path) -> None:
    examples = [block for block in blocks(path.read_text(), "[jt]s") if "pollcast.js" in block]
    assert examples
    for example in examples:
        assert complaints(typescript, example + AROUND) == ""


@pytest.mark.timeout(120)
def test_the_playground_s_copied_javascript_compiles(typescript: Path) -> None:
    (typescript / "copied.js").write_text(COPIED)
    command = ["node", "copied.js", SERVER]
    copied = subprocess.run(command, cwd=typescript, check=True, timeout=30, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603
    assert complaints(typescript, copied) == ""


@pytest.mark.timeout(120)
def test_an_event_s_status_determines_its_fields(typescript: Path) -> None:
    assert complaints(typescript, ENDS) == ""


@pytest.mark.parametrize("shape", [shapes.Job, shapes.JobLinks, shapes.Eta, shapes.Output, shapes.Asset])
def test_the_types_name_every_field_of_the_responses(shape: type[BaseModel]) -> None:
    interface = {shapes.JobLinks: "Job", shapes.Eta: "Job"}.get(shape, shape.__name__)
    found = re.search(rf"^export interface {interface} {{\n(.*?)^}}", TYPES, re.MULTILINE | re.DOTALL)
    assert found
    for name, field in shape.model_fields.items():
        mark = ":" if field.is_required() else "?:"
        assert re.search(rf"\b{name}{re.escape(mark)} ", found[1]), name
