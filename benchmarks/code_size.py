"""Count lines of code: those with at least one token that is no comment and belongs to no docstring.

    python benchmarks/code_size.py [FOLDER]

Prints a line for each package below FOLDER (default: src/atlasmith), and the sum.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

SKIPPED = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> int:
    """Count the lines of a module that hold code."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            docstrings |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SKIPPED:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "src" / "atlasmith")
    counts: Counter[str] = Counter()
    for path in sorted(root.rglob("*.py")):
        part = path.relative_to(root).parts[0]
        counts[part] += code_lines(path.read_text(encoding="utf-8"))
    for part, count in sorted(counts.items()):
        print(f"{count:6d}  {part}")
    print(f"{sum(counts.values()):6d}  all")


if __name__ == "__main__":
    main()
