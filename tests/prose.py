"""Measures the prose and the layout of the package, and holds them to limits.

    python -m tests.prose            the figures of this checkout; exits 1 where one is over its limit
    python -m tests.prose FOLDER     the figures of another checkout, for comparison
    python -m tests.prose --list PATH   each finding below a file or folder, with its line

Docstrings, strings below an assignment and comments of `proxy/` are read, and the README and `proxy/docs/`. Of `tests/`
the docstrings, comments and names of tests are read.
"""

import ast
import io
import re
import sys
import tempfile
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.support.further import copy_checkout, lines_that_name_a_provider, places_without_it

LIMITS: Final = {
    "modules in proxy/ itself": 2,
    "words per sentence, mean": 12.0,
    "docstrings that open with What, Who, Whether or How, %": 1.0,
    "mannered turns per 100 words": 0.2,
    "functions named by a participle, %": 2.0,
    "lines of README.md": 200.0,
    "test names of more than 12 words": 0.0,
    "mannered turns per 100 words, in tests": 0.25,
    "shared lines that a further provider touches": 0.0,
}
"""The largest value of each figure that `make check` accepts."""

MAX_TEST_NAME: Final = 12
"""Maximum number of words of a test's name, without the leading `test`."""

WORDS: Final = Path(__file__).with_name("mannered_words.txt")
"""The word list: a regular expression on each line."""

MANNERED: Final = re.compile(rf"\b(?:{'|'.join(WORDS.read_text().splitlines())})\b", re.IGNORECASE)
"""Turns that slow a reader down: old words, inversions and clauses as subjects, where a plain word exists."""

OPENERS: Final = re.compile(r"(?:What|Who|Whose|Whether|How)\b")
WORD: Final = re.compile(r"[A-Za-z][A-Za-z'-]*")
SENTENCE: Final = re.compile(r"(?<=[.!?:;])\s+|\n\s*\n|\n\s*[-*|]\s")
PARTICIPLE: Final = re.compile(
    r"_*(?:[a-z]+ed|told|said|made|kept|sent|held|gone|begun|known|shown|taken|written|read_anew)$"
)
PREDICATES: Final = {"embed", "need", "seed", "feed", "speed", "exceed", "shed"}


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Yield every docstring, and every string that stands alone below an assignment."""
    for node in ast.walk(tree):
        for statement in getattr(node, "body", ()) if not isinstance(node, ast.Lambda | ast.IfExp) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                yield from [statement.value.value] if isinstance(statement.value.value, str) else []


def comments(source: str) -> Iterator[str]:
    """Yield every comment but those for tools."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not re.match(r"#\s*(?:noqa|type:|fmt:|!)", token.string):
            yield token.string.lstrip("# ")


def functions(tree: ast.Module) -> Iterator[str]:
    """Yield the names of all functions and methods that are no properties."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
            if not decorators & {"property", "cached_property"}:
                yield node.name


def is_participle(name: str) -> bool:
    """Return whether a function's name is a participle, such as `_sent` or `admitted`."""
    return bool(PARTICIPLE.fullmatch(name)) and name.strip("_") not in PREDICATES


def test_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names of all tests."""
    yield from (name for name in functions(tree) if name.startswith("test_"))


def mannered_share(texts: Sequence[str]) -> float:
    """Return the number of mannered turns per 100 words."""
    return share(sum(len(MANNERED.findall(text)) for text in texts), sum(len(WORD.findall(text)) for text in texts))


def share(count: int, total: int, of: int = 100) -> float:
    """Return how many of `of` there are, to two places."""
    return round(of * count / max(total, 1), 2)


def shared_lines(root: Path) -> int:
    """Return how many shared lines a further provider needs: one for each place that does not find it by itself.

    They are counted with a copy of an adapter under another name, in a copy of the checkout. Imports of single
    providers in shared files count too.
    """
    with tempfile.TemporaryDirectory() as folder:
        return places_without_it(copy_checkout(root, Path(folder))) + len(lines_that_name_a_provider(root))


def figures(root: Path) -> dict[str, float]:
    """Return the figures of a checkout by their names."""
    sources = [path.read_text() for path in sorted((root / "proxy").rglob("*.py"))]
    trees = [ast.parse(source) for source in sources]
    strings = [text for tree in trees for text in docstrings(tree)]
    remarks = [text for source in sources for text in comments(source)]
    pages = [page.read_text() for page in (root / "README.md", *sorted((root / "proxy").glob("docs/*.md")))]
    pages = [re.sub(r"```.*?```|`[^`]*`", "x", page, flags=re.DOTALL) for page in pages]
    prose = [re.sub(r"`[^`]*`", "x", text) for text in strings + remarks] + pages
    sentences = [
        len(WORD.findall(part))
        for text in strings
        for part in SENTENCE.split(re.sub(r"`[^`]*`", "x", text))
        if WORD.search(part)
    ]
    names = [name for tree in trees for name in functions(tree)]
    test_sources = [path.read_text() for path in sorted((root / "tests").rglob("*.py"))]
    test_trees = [ast.parse(source) for source in test_sources]
    test_prose = [text for tree in test_trees for text in docstrings(tree)]
    test_prose += [text for source in test_sources for text in comments(source)]
    return {
        "modules in proxy/ itself": sum(path.name != "__init__.py" for path in (root / "proxy").glob("*.py")),
        "words per sentence, mean": round(sum(sentences) / len(sentences), 1),
        "docstrings that open with What, Who, Whether or How, %": share(
            sum(bool(OPENERS.match(text.strip())) for text in strings), len(strings)
        ),
        "mannered turns per 100 words": mannered_share(prose),
        "functions named by a participle, %": share(sum(map(is_participle, names)), len(names)),
        "shared lines that a further provider touches": shared_lines(root),
        "lines of README.md": len((root / "README.md").read_text().splitlines()),
        "test names of more than 12 words": sum(
            name.count("_") > MAX_TEST_NAME for tree in test_trees for name in test_names(tree)
        ),
        "mannered turns per 100 words, in tests": mannered_share(
            [re.sub(r"`[^`]*`", "x", text) for text in test_prose]
        ),
    }


def findings(path: Path) -> Iterator[str]:
    """Yield each mannered turn, opener and participle name below a file or folder, with its place."""
    for file in [path] if path.is_file() else sorted([*path.rglob("*.py"), *path.rglob("*.md")]):
        source = file.read_text()
        if file.suffix == ".py":
            tree = ast.parse(source)
            yield from (f"{file}: named by a participle: {name}" for name in functions(tree) if is_participle(name))
            yield from (
                f"{file}: opens with a question word: {text[:80]!r}"
                for text in docstrings(tree)
                if OPENERS.match(text.strip())
            )
        for number, line in enumerate(source.splitlines(), 1):
            yield from (
                f"{file}:{number}: {turn}: {line.strip()}" for turn in MANNERED.findall(re.sub(r"`[^`]*`", "x", line))
            )


def main() -> int:
    """Print the figures, or with `--list PATH` the findings; return 1 if a figure is over its limit."""
    match sys.argv[1:]:
        case ["--list", path]:
            sys.stdout.writelines(f"{finding}\n" for finding in findings(Path(path)))
            return 0
        case [folder]:
            found = figures(Path(folder))
        case _:
            found = figures(Path(__file__).parent.parent)
    for name, value in found.items():
        sys.stdout.write(f"{value:>8g}  (at most {LIMITS[name]:g})  {name}\n")
    return int(any(value > LIMITS[name] for name, value in found.items()))


if __name__ == "__main__":
    sys.exit(main())
