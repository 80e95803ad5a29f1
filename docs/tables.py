"""Write the generated tables of README.md in their place: ``python docs/tables.py [--check]``.

--check writes nothing and exits 1 when the README is not up to date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pyeqgan import backends, functional

ROOT = Path(__file__).parent.parent


def operations_table() -> str:
    """Operations × backends, read from what is registered and from the kernels' sources."""
    lines = ["| operation | CPU | Triton | CUDA C++ |", "|---|---|---|---|"]
    explained = backends.explain()
    glue = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "csrc/cuda").glob("*.cpp"))
    for name in functional.__all__:
        choice = explained[name]["cpu"]
        if choice.backend == "composed":
            cells = [f"composed: {choice.reason}", "as its parts", "as its parts"]
        else:
            cpu = "native: AVX-512, AVX2, portable" if choice.backend == "native" else "reference"
            triton = (ROOT / "kernels" / f"{name}.py").exists()
            cuda = f'"{name}(Tensor' in glue
            cells = [cpu, *("compiled, not yet run" if there else "reference" for there in (triton, cuda))]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Replace what stands between the markers; returns the exit status."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    pattern = re.compile(r"(<!-- operations: .*? -->\n).*?(<!-- end -->)", re.DOTALL)
    updated, count = pattern.subn(lambda m: f"{m[1]}{operations_table()}\n{m[2]}", text)
    if count != 1:
        print("README.md: expected one pair of markers '<!-- operations: … -->' and '<!-- end -->'")
        return 1
    if updated == text:
        return 0
    if "--check" in sys.argv[1:]:
        print("README.md: the table of operations is out of date; run python docs/tables.py")
        return 1
    readme.write_text(updated, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
