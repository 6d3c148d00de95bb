"""The imports between the package's modules, read from their syntax."""

import ast
from pathlib import Path


def modules(package: Path) -> dict[str, Path]:
    """Dotted name of every module below `package` to its file; a package bears its folder's name."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        names = file.relative_to(package.parent).with_suffix("").parts
        found[".".join(names[:-1] if names[-1] == "__init__" else names)] = file
    return found


def imported(file: Path, known: dict[str, Path]) -> set[str]:
    """Modules among `known` that a file imports, at its head or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)

    return found & known.keys()


def closure(entry: str, package: Path) -> set[Path]:
    """Files of all modules that `entry` reaches by imports, with the packages above them."""
    known = modules(package)
    reached: set[str] = set()
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        waiting += imported(known[name], known)

        # Importing a.b.c runs the faces of a and a.b first.
        parents = name.split(".")[:-1]
        waiting += [".".join(parents[: size + 1]) for size in range(len(parents))]

    return {known[name] for name in reached}
