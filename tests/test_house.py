"""The rules of the house: imports have no circles and point one way, and what is there is short (CONTRIBUTING.md)."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("kernels", "asr", "enhance", "dlm", "recipes")
# What a package may import beside itself; a program may compose whatever it likes.
BELOW = {
    "kernels": (),
    "asr.audio": (),
    "asr.console": ("asr.audio",),
    "asr": ("asr.audio", "asr.console", "kernels"),
    "enhance.networks": ("kernels",),
    "enhance": ("asr.audio", "asr.console", "kernels", "enhance.networks", "enhance.l3se"),
    "enhance.l3se": ("asr", "asr.audio", "asr.console", "kernels", "enhance.networks", "enhance"),
    "dlm": ("asr", "asr.audio", "asr.console", "enhance"),
    "recipes": PACKAGES + ("asr.audio", "asr.console", "enhance.networks", "enhance.l3se"),
}
HEAVY = {"torch", "torchaudio", "transformers", "librosa", "scipy", "numba"}
# Rooms of asr from the ground up: each may import those before it, and what is in none of them may import all.
FLOORS = (
    ("asr.audio", "asr.text", "asr.output", "asr.hub", "asr.eight_bits", "asr.compat"),
    ("asr.ctc",),
    ("asr.parts",),
    ("asr.dllm",),
    ("asr.ar",),
)


@cache
def modules() -> dict[str, ast.Module]:
    """Every module by name, parsed."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports_of(name: str) -> set[str]:
    """Our modules that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {module if module in modules() else node.module for module in full}
    return {module for module in found if module in modules() and module != name}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle, in its order; empty where there is none."""
    path, done = [], set()

    def visit(name: str) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        path.append(name)
        for other in sorted(graph[name]):
            if found := visit(other):
                return found
        done.add(path.pop())
        return []

    return next((found for name in graph if (found := visit(name))), [])


def longest_match(name: str, prefixes) -> str | None:
    return max((p for p in prefixes if name == p or name.startswith(f"{p}.")), key=len, default=None)


def is_program(name: str) -> bool:
    """Whether a module is run as `python -m`."""
    return any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in modules()[name].body)


def first_imports(name: str) -> Iterator[str]:
    """What a module imports while it is imported itself."""
    waiting = list(modules()[name].body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            waiting += node.body + node.orelse
        elif isinstance(node, ast.Try | ast.With):
            waiting += node.body


def heavy_imports(name: str) -> set[str]:
    """Libraries that take seconds to load and that a module loads before anything of it runs."""
    seen, waiting, found = set(), [name], set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        names = set(first_imports(module)) | {module.rpartition(".")[0]}  # a module's package comes first
        found |= {other.split(".")[0] for other in names} & HEAVY
        waiting += [other for other in names if other in modules()]
    return found


def upward(name: str) -> list[str]:
    """Imports of a module that go against the order of the packages or of the rooms of asr."""
    home, wrong = longest_match(name, BELOW), []
    floor = next((i for i, rooms in enumerate(FLOORS) if longest_match(name, rooms)), len(FLOORS))
    for other in sorted(imports_of(name)):
        there = longest_match(other, BELOW)
        other_floor = next((i for i, rooms in enumerate(FLOORS) if longest_match(other, rooms)), len(FLOORS))
        if there not in (home, *BELOW[home]) or (home == there == "asr" and other_floor > floor):
            wrong.append(f"{name} imports {other}")
    return wrong


def lines_of(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def long_functions(module: ast.Module, most: int = 60) -> list[str]:
    functions = [n for n in ast.walk(module) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [f.name for f in functions if f.end_lineno - f.lineno + 1 > most]


def test_files_and_functions_are_short():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert [str(path) for path in files if lines_of(path) > 350] == []
    assert [str(path) for path in (ROOT / "recipes/benchmarks").glob("*.py") if lines_of(path) > 300] == []
    assert [f"{name}.{f}" for name, module in modules().items() for f in long_functions(module)] == []
    assert long_functions(ast.parse("def f():" + "\n    pass" * 60)) == ["f"]


def test_imports_have_no_circle():
    assert circle({name: imports_of(name) for name in modules()}) == []


def test_imports_point_down():
    assert [arrow for name in modules() if not is_program(name) for arrow in upward(name)] == []


def test_help_does_not_wait_for_torch():
    """What programs and packages import before they know what is asked of them."""
    programs = [name for name in modules() if is_program(name)]
    waiting = {name: heavy_imports(name) for name in ("asr", "enhance", "dlm", "recipes", *programs)}
    assert {name: heavy for name, heavy in waiting.items() if heavy} == {}
    assert "torch" in heavy_imports("asr.recogniser")


def test_only_training_waits_for_the_compiled_loops():
    assert "numba" not in heavy_imports("enhance.denoiser") | heavy_imports("enhance.networks.adaptcrn")
    assert "numba" in heavy_imports("kernels.gru_loops")


def test_circles_and_arrows_are_seen(monkeypatch):
    sources = {
        "asr.a": "from asr import b",
        "asr.b": "def late():\n    import asr.a",
        "asr.ctc.c": "from asr.dllm.d import x",
        "asr.dllm.d": "from asr.ctc import e\nfrom asr.audio import io",
        "asr.ctc.e": "",
        "asr.audio.io": "import dlm.f",
        "dlm.f": "import asr.a",
        "recipes.g": "import dlm.f\nif __name__ == '__main__':\n    pass",
    }
    parsed = {name: ast.parse(text) for name, text in sources.items()}
    monkeypatch.setattr(f"{__name__}.modules", lambda: parsed)
    assert circle({name: imports_of(name) for name in parsed}) == ["asr.a", "asr.b"]
    assert upward("asr.ctc.c") == ["asr.ctc.c imports asr.dllm.d"]
    assert upward("asr.audio.io") == ["asr.audio.io imports dlm.f"]
    assert upward("asr.dllm.d") == upward("dlm.f") == upward("recipes.g") == []
    assert is_program("recipes.g") and not is_program("dlm.f")
