"""Numbers, bools and enums in prototxt, good and bad, and what the real parser makes of them: tests/golden/numbers.json, and what
it says first of those that it refuses: tests/golden/numbers_refused.json.

Record it: ``python tests/parity/number_golden.py``.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path

import real_tools

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "numbers.json"
REFUSED = GOLDEN.with_name("numbers_refused.json")
_SAID = re.compile(r"Error parsing text-format caffe\.SolverParameter: \d+:\d+: (.*)")
FIELDS = (
    "max_iter",
    "random_seed",
    "base_lr",
    "debug_info",
    "solver_mode",
    "type",
)  # int32 int64 float bool enum string
INTEGERS = (
    "1_0|١|１|- 1|-1|-\n1|- \t1|--1|-0|00|0x1|0X1|0x|01|010|08|1 0|10000000000|2|000|0x0|+1|0b1|0o17|1l|1u|4294967296|"
    "99999999999999999999|-2147483648|-2147483649|-  2147483648|0x7fffffff|0x80000000|-0x80000000|0777|1-2|- 0x1|-0x1|"
    "1a|1é|１_0|1;|1,|0_1|1__0|1;2|- -1|-#x\n1|0-1|_1|\u00a01|1\u00a0|\x0c1|1\x0b|\ufeff1"
)
FLOATS = (
    "1.0|1.|.5|1e3|1E3|1e|1f|1F|1.5f|0x1f|inf|-inf|nan|-nan|Infinity|infinity|INF|NaN|- inf|infinityf|inff|nanf|1_000.5|"
    "1e1_0|１.５|1e400|1e-400|-1e400|1..2|1.2.3|-  .5|.|-.|1e+3|1e+|1e-|0e|0x1.8|1.f|1._|1.0_|0.1e1_|01.5|09.5|1 .5|-.5f"
)
WORDS = 'true|True|TRUE|t|T|f|False|false|tRue|CPU|cpu|-CPU|-true|-NAN|"1"|#|[1]|[1,2]|[]'
VALUES = [value for values in (INTEGERS, FLOATS, WORDS) for value in values.split("|")]


def cases() -> list[str]:
    """Solvers of one line."""
    return [f"{field}: {value}\n" for field in FIELDS for value in VALUES]


def real(text: str, folder: Path) -> tuple[str | None, str]:
    """What Caffe prints of the solver that it has read; None where it refuses it, and then what its parser says first."""
    (folder / "in.prototxt").write_text(text)
    done = real_tools.run("upgrade_solver_proto_text", ["in.prototxt", "out.prototxt"], folder)
    assert done.returncode in (0, 2), done.stderr
    if done.returncode:
        return None, _SAID.findall(done.stderr)[0]
    return (folder / "out.prototxt").read_text(), ""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        answers = {text: real(text, Path(folder)) for text in cases()}
    refused = {text: said for text, (answer, said) in answers.items() if answer is None}
    for path, content in ((GOLDEN, {text: answer for text, (answer, _) in answers.items()}), (REFUSED, refused)):
        lines = [f"{json.dumps(text)}: {json.dumps(entry)}" for text, entry in content.items()]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{len(answers)} solvers, {len(refused)} refused", file=sys.stderr)


if __name__ == "__main__":
    main()
