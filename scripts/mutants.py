"""Change one thing at a time in a room of the source, and list what no quick test notices.

    python scripts/mutants.py registration transforms --sample 200 --seed 0 --out mutants.json

A mutant is a module with one change: a comparison, an arithmetic or logical operator, a number, a
condition, or a statement left out. A first run of the tests records which of them execute which
line, and how long each takes. Each mutant then meets the quick tests that execute its line, until
one fails. A mutant that none of them notices survives.

`--out` is written after each mutant. A mutant that it holds already does not run again.

Torch and the other libraries are imported once. Every run is a fork of that process (Linux and
macOS). The source itself is not touched: the fork imports the changed text.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
QUIET = ["-q", "-x", "--no-header", "-p", "no:cacheprovider", "-p", "no:pytest-qt"]
QUIET += ["-p", "no:napari", "-p", "no:randomly", "-m", "not slow and not gui and not shared"]

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


class Mutator(ast.NodeTransformer):
    """Change the n-th place that can be changed, or none; ``places`` lists all."""

    def __init__(self, number: int | None = None) -> None:
        self.number = number
        self.places: list[tuple[int, str]] = []

    def _here(self, node: Any, what: str) -> bool:
        self.places.append((node.lineno, what))
        return len(self.places) - 1 == self.number

    def visit(self, node: ast.AST) -> Any:
        """Leave annotations, docstrings and exception messages as they are."""
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
            return node
        if isinstance(node, ast.AnnAssign):
            if node.value is not None:
                node.value = self.visit(node.value)
            return node
        if isinstance(node, ast.FunctionDef):
            node.body = [self.visit(each) for each in node.body]
            return node
        return super().visit(node)

    def visit_Compare(self, node: ast.Compare) -> Any:
        """Change a comparison, such as < to <=."""
        for index, operator in enumerate(node.ops):
            swapped = SWAPS.get(type(operator))
            if swapped and self._here(node, f"{_name(operator)} -> {swapped.__name__}"):
                node.ops[index] = swapped()  # type: ignore[call-overload]
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        """Change an operator, such as + to -."""
        swapped = SWAPS.get(type(node.op))
        if swapped and self._here(node, f"{_name(node.op)} -> {swapped.__name__}"):
            node.op = swapped()  # type: ignore[assignment]
        return self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        """Change and to or."""
        swapped = SWAPS[type(node.op)]
        if self._here(node, f"{_name(node.op)} -> {swapped.__name__}"):
            node.op = swapped()  # type: ignore[assignment]
        return self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        """Drop not, - and ~."""
        if self._here(node, f"without {_name(node.op)}"):
            return self.generic_visit(node.operand)
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> Any:
        """Change a number or a truth value."""
        if isinstance(node.value, bool):
            other: Any = not node.value
        elif isinstance(node.value, int | float):
            other = node.value + 1 if node.value in (0, 1) else node.value * 2
        else:
            return node
        if self._here(node, f"{node.value} -> {other}"):
            return ast.copy_location(ast.Constant(other), node)
        return node

    def visit_If(self, node: ast.If) -> Any:
        """Take a branch always."""
        if self._here(node, f"if {ast.unparse(node.test)} -> if True"):
            node.test = ast.copy_location(ast.Constant(True), node.test)
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> Any:
        """Leave out a call."""
        if isinstance(node.value, ast.Call) and self._here(node, f"no {ast.unparse(node)}"):
            return ast.copy_location(ast.Pass(), node)
        return node if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> Any:
        """Leave out an assignment to a part of an object."""
        part = isinstance(node.targets[0], ast.Subscript | ast.Attribute)
        if part and self._here(node, f"no {ast.unparse(node)}"):
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        """Leave out a change in place."""
        if self._here(node, f"no {ast.unparse(node)}"):
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)


def _name(operator: ast.AST) -> str:
    return type(operator).__name__


def mutants(path: Path) -> list[tuple[int, int, str]]:
    """Number, line and change of each mutant of a module."""
    mutator = Mutator()
    mutator.visit(ast.parse(path.read_text("utf-8")))
    return [(number, *place) for number, place in enumerate(mutator.places)]


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import one module from a changed tree."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self.name, self.path, self.tree = name, path, tree

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Find the changed module only."""
        if name != self.name:
            return None
        package = self.path.name == "__init__.py"
        return importlib.util.spec_from_file_location(
            name,
            self.path,
            loader=self,
            submodule_search_locations=[str(self.path.parent)] if package else None,
        )

    def exec_module(self, module: Any) -> None:
        """Execute the changed module."""
        exec(compile(ast.fix_missing_locations(self.tree), str(self.path), "exec"), vars(module))


def forked(work: Any, seconds: float) -> int:
    """Exit code of `work` in a fork; that of a signal when it takes longer than `seconds`."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        signal.alarm(max(int(seconds), 1))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        code = 1
        try:
            code = int(work())
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def record(tests: list[str], out: Path) -> int:
    """Run the tests; write the seconds of each, and which of them execute each line."""
    import coverage
    import pytest

    seen = coverage.Coverage(data_file=None, source=["napari_busref"])

    class Contexts:
        def __init__(self) -> None:
            self.seconds: dict[str, float] = {}

        @pytest.hookimpl(hookwrapper=True)
        def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
            seen.switch_context(item.nodeid)
            began = time.process_time()
            yield
            self.seconds[item.nodeid] = time.process_time() - began

    contexts = Contexts()
    seen.start()
    quiet = [option for option in QUIET if option != "-x"]
    code = pytest.main([*quiet, *tests], plugins=[contexts])
    seen.stop()
    data = seen.get_data()
    lines = {
        str(Path(path).relative_to(SOURCE)): {
            str(line): [test for test in names if test]
            for line, names in data.contexts_by_lineno(path).items()
        }
        for path in data.measured_files()
    }
    out.write_text(json.dumps({"seconds": contexts.seconds, "lines": lines}))
    return int(code)


def meet(module: Path, number: int, tests: list[str]) -> int:
    """Run tests on one mutant; pytest's exit code."""
    import pytest

    tree = ast.parse(module.read_text("utf-8"))
    tree = Mutator(number).visit(tree)
    parts = module.relative_to(SOURCE).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    sys.meta_path.insert(0, Changed(name, module, tree))
    return int(pytest.main([*QUIET, *tests]))


def import_libraries() -> None:
    """Import what every fork needs, and nothing of this package."""
    import h5py  # noqa: F401
    import kornia  # noqa: F401
    import pytest  # noqa: F401
    import scipy.ndimage  # noqa: F401
    import skimage.data
    import skimage.transform  # noqa: F401
    import tifffile  # noqa: F401
    import torch

    torch.set_num_threads(1)  # other threads would not survive a fork


def choose_tests(names: list[str], seconds: dict[str, float], limit: float) -> list[str]:
    """The quickest tests first, of at most `limit` seconds together."""
    chosen, total = [], 0.0
    for name in sorted(names, key=lambda test: seconds.get(test, 0.0)):
        total += seconds.get(name, 0.0)
        if total > limit and chosen:
            break
        chosen.append(name)
    return chosen


def meet_tests(
    mutant: tuple[Path, int, int, str], known: dict[str, Any], limit: float
) -> dict[str, Any]:
    """Run the tests of one mutant, and print it unless they kill it."""
    path, number, line, what = mutant
    where = str(path.relative_to(SOURCE))
    covering = known["lines"].get(where, {}).get(str(line), [])
    tests = choose_tests(covering, known["seconds"], limit)
    verdict = "not executed"  # or by the import alone
    if tests:
        code = forked(lambda: meet(path, number, tests), 60 + 10 * limit)
        verdict = "survived" if code == 0 else "killed"
    if verdict != "killed":
        print(f"{verdict}: {where}:{line}: {what}", flush=True)
    return {
        "module": where,
        "number": number,
        "line": line,
        "change": what,
        "verdict": verdict,
    }


def meet_all(
    drawn: list[tuple[Path, int, int, str]], known: dict[str, Any], limit: float, out: Path | None
) -> list[dict[str, Any]]:
    """Run the tests of each mutant that the file `out` does not hold, and write it there."""
    rows = json.loads(out.read_text()) if out and out.exists() else []
    held = {(row["module"], row["number"]) for row in rows}
    for mutant in drawn:
        if (str(mutant[0].relative_to(SOURCE)), mutant[1]) not in held:
            rows.append(meet_tests(mutant, known, limit))
            if out:
                out.write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def main() -> None:
    """Record the tests, then run the mutants."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rooms", nargs="+", help="folders or modules below src/napari_busref")
    parser.add_argument("--tests", nargs="+", help="default: the folders of the rooms in tests")
    parser.add_argument("--sample", type=int, help="number of mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=5.0, help="seconds of tests a mutant")
    parser.add_argument("--record", type=Path, help="file of the first run, kept and used again")
    parser.add_argument("--out", type=Path, help="JSON of the mutants, kept and continued")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(SOURCE))
    package = SOURCE / "napari_busref"
    import_libraries()
    tests = options.tests or [f"tests/{room}" for room in options.rooms]
    file = options.record or Path(os.environ.get("TMPDIR", "/tmp")) / f"mutants-{os.getpid()}.json"
    if not file.exists() and forked(lambda: record(tests, file), 3600):
        raise SystemExit("the tests fail without any mutant")
    known = json.loads(file.read_text())
    modules = [
        path
        for room in options.rooms
        for path in sorted(
            (package / room).rglob("*.py") if (package / room).is_dir() else [package / room]
        )
    ]
    every = [(path, *mutant) for path in modules for mutant in mutants(path)]
    drawn = every
    if options.sample is not None and options.sample < len(every):
        drawn = random.Random(options.seed).sample(every, options.sample)
    print(f"{len(drawn)} of {len(every)} mutants, seed {options.seed}", flush=True)
    rows = meet_all(drawn, known, options.limit, options.out)
    count = {
        each: sum(row["verdict"] == each for row in rows)
        for each in ("killed", "survived", "not executed")
    }
    print(", ".join(f"{number} {verdict}" for verdict, number in count.items()))


if __name__ == "__main__":
    main()
