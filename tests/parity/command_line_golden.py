"""Command lines good and bad, and what the real `caffe` makes of them: tests/golden/command_line.json.

Record it: ``python tests/parity/command_line_golden.py`` (``--new``: what is not there yet). To add a case: a file in
`command_line_files`, or a line in `OTHERS`; where we do not do as Caffe does, a line in `DIFFERENT`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import command_line_files as files

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CAFFE = ROOT / ".caffe" / "bin" / "caffe"
GOLDEN = HERE.parent / "golden" / "command_line.json"

ONE_TEST = "-iterations 1 -weights"
OTHERS = f"""
train
train -solver=
train -solver gone.prototxt
train -solver net.prototxt
train -solver db
train -solver solver.prototxt -snapshot a -weights b
train -solver solver.prototxt -snapshot gone.solverstate
train -solver solver.prototxt -snapshot db
train -solver solver.prototxt -weights gone.caffemodel
train -solver solver.prototxt -weights ,
train -solver solver.prototxt -weights x_iter_8.caffemodel,gone
train -solver solver.prototxt -weights db
train -solver solver.prototxt -sigint_effect bad
train -solver solver.prototxt -sighup_effect bad
train -solver solver.prototxt -gpu 0
train -solver solver.prototxt -gpu x
train -solver solver.prototxt -gpu 0,0
train -solver solver.prototxt -gpu -1
train -solver solver.prototxt -iterations 0
train -solver solver.prototxt -phase X -model gone
train -solver solver.prototxt -level 5 -stage a,b
test
test -model net.prototxt
test -weights x
test -model gone -weights x
test -model db -weights x_iter_8.caffemodel
test -model solver.prototxt -weights x_iter_8.caffemodel
test -model net.prototxt -weights db
test -model net.prototxt -weights gone.caffemodel
test -model net.prototxt -weights x_iter_8.caffemodel,x_iter_4.caffemodel
test -model net.prototxt -weights x_iter_8.caffemodel -iterations 0
test -model net.prototxt -weights x_iter_8.caffemodel -iterations -1
test -model net.prototxt {ONE_TEST} x_iter_8.caffemodel -phase nope
test -model net.prototxt {ONE_TEST} x_iter_8.caffemodel -gpu 0
test -model blank.prototxt {ONE_TEST} x_iter_8.caffemodel
test -model bad_shape.prototxt {ONE_TEST} x_iter_8.caffemodel
test -model bad_shape.prototxt {ONE_TEST} h_iter_8.caffemodel.h5
test -model renamed.prototxt {ONE_TEST} x_iter_8.caffemodel
test -model renamed.prototxt {ONE_TEST} h_iter_8.caffemodel.h5
test -model no_bias.prototxt {ONE_TEST} x_iter_8.caffemodel
test -model no_bias.prototxt {ONE_TEST} h_iter_8.caffemodel.h5
train -solver solver.prototxt -snapshot x_iter_8.caffemodel
train -solver solver.prototxt -weights x_iter_8.solverstate
train -solver solver.prototxt -snapshot h_iter_8.caffemodel.h5
train -solver solver.prototxt -weights h_iter_4.solverstate.h5
train -solver solver.prototxt -snapshot net.prototxt
train -solver x_iter_8.caffemodel
train -solver x_iter_8.solverstate
test -model x_iter_8.caffemodel -weights net.prototxt
test -model net.prototxt -weights solver.prototxt
test -model net.prototxt -weights x_iter_8.solverstate
time -model solver.prototxt
time
time -model gone
time -model net.prototxt -iterations 0
time -model net.prototxt -iterations -1
time -model net.prototxt -phase train
time -model net.prototxt -phase TEST -iterations 1
time -model net.prototxt -gpu 0 -iterations 1
time -model net.prototxt -gpu all -iterations 1
time -model net.prototxt -weights gone -iterations 1
device_query
device_query -gpu 0
device_query -gpu all
device_query -gpu x
nope
help
version
TRAIN
train test
-solver solver.prototxt
train -level 99999999999
train -level abc
train -level 1.5
train -level 0x
train -level 1_0
train -level ١
train -level １
train -level -0x1
train -level +0x1
train -level --1
train -nolevel
device_query -level 0x1F
device_query -level +1
device_query -level 007
train -logtostderr=00
train -logtostderr=0x1
device_query -logtostderr=Y
train -iterations 1_0
train --nope=1
train --nope=1 -nada
train -solver
train -nosolver
train -version=maybe
-iterations
-noversion
-version
--fromenv=solver train
--fromenv=nope train
--tryfromenv=solver train
--tryfromenv=nope train
--undefok=nope --nope train
--undefok=nope,other --nope=3 --noother train
--flagfile=flags
--flagfile=gone train
-helpfull
-helpshort
-helpon=caffe
-helpon=nope
-helpmatch=caffe
-helppackage
-helpxml
-v=1 device_query
-stderrthreshold=0 device_query
-logtostderr device_query
-alsologtostderr device_query
-minloglevel=3 device_query
-colorlogtostderr device_query
-log_prefix=true device_query
-log_dir=gone device_query
-max_log_size=1 device_query
-vmodule=x=1 device_query
-logbufsecs=1 device_query
-log_link=x device_query
-tab_completion_columns=7 device_query
""".strip().splitlines()

NOT_DATUM, NOT_NET, NOT_STATE = "no whole Datum", "no binary caffe.NetParameter", "no binary caffe.SolverState"
TIME, TEST, TRAIN = (
    "time -iterations 1 -model",
    f"test -model net.prototxt {ONE_TEST}",
    "train -solver solver.prototxt -snapshot",
)
OF_FLAGS = {
    "train -solver solver.prototxt -snapshot x_iter_8.caffemodel": "(-snapshot x_iter_8.caffemodel holds the weights of "
    "a net: they belong to -weights)",
    "train -solver solver.prototxt -weights x_iter_8.solverstate": "(-weights x_iter_8.solverstate holds the state of a "
    "solver: it belongs to -snapshot)",
    "train -solver solver.prototxt -snapshot h_iter_8.caffemodel.h5": "(-snapshot h_iter_8.caffemodel.h5 holds the weights "
    "of a net: they belong to -weights)",
    "train -solver solver.prototxt -weights h_iter_4.solverstate.h5": "(-weights h_iter_4.solverstate.h5 holds the state "
    "of a solver: it belongs to -snapshot)",
    "train -solver solver.prototxt -snapshot net.prototxt": "(-snapshot net.prototxt holds a net: it belongs to -model, "
    "or to the line `net:` of a solver)",
    "train -solver x_iter_8.caffemodel": "(-solver x_iter_8.caffemodel holds the weights of a net: they belong to -weights)",
    "train -solver x_iter_8.solverstate": "(-solver x_iter_8.solverstate holds the state of a solver: it belongs to -snapshot)",
    "test -model x_iter_8.caffemodel -weights net.prototxt": "(-model x_iter_8.caffemodel holds the weights of a net: they "
    "belong to -weights)",
    "test -model net.prototxt -weights solver.prototxt": "(-weights solver.prototxt holds a solver: it belongs to -solver)",
    "test -model net.prototxt -weights x_iter_8.solverstate": "(-weights x_iter_8.solverstate holds the state of a solver: "
    "it belongs to -snapshot)",
    "time -model solver.prototxt": "(-model solver.prototxt holds a solver: it belongs to -solver)",
    "train -solver net.prototxt": "(-solver net.prototxt holds a net: it belongs to -model, or to the line `net:` of a solver)",
}
"""A file given to another's flag: ours says so behind the sentence, on the command line."""
DIFFERENT = {
    **OF_FLAGS,
    # real Caffe looks at neither the end nor the size of a record: it trains on what lies in memory there, or dies
    f"{TIME} db_truncated_datum.prototxt": NOT_DATUM,
    f"{TIME} db_later_truncated.prototxt": NOT_DATUM,
    f"{TIME} db_text.prototxt": NOT_DATUM,
    f"{TIME} db_no_datum.prototxt": NOT_DATUM,
    f"{TIME} db_short.prototxt": "a Datum of 3 x 8 x 8 holds 100 values, expected 192",
    f"{TIME} db_long.prototxt": "a Datum of 3 x 8 x 8 holds 300 values, expected 192",
    f"{TIME} db_short_float.prototxt": "a Datum of 3 x 8 x 8 holds 50 values, expected 192",
    f"{TIME} db_no_data.prototxt": "a Datum of 3 x 8 x 8 holds 0 values, expected 192",
    f"{TIME} db_huge.prototxt": "a Datum of 3 x 65536 x 65536 holds 192 values, expected 12884901888",
    # it says so in an E line, and stops later: "Check failed: data_"
    f"{TIME} db_no_image.prototxt": "Could not decode datum",
    f"{TIME} db_cut_image.prototxt": "Could not decode datum",
    f"{TIME} db_empty_image.prototxt": "Could not decode datum",
    # it reads beyond its arrays
    f"{TIME} db_far_label.prototxt": "Check failed: label_value < classes (1000 vs. 3)",
    f"{TIME} db_negative_label.prototxt": "Check failed: label_value >= 0 (-1 vs. 0)",
    # it dies of SIGBUS
    f"{TIME} db_mdb_cut.prototxt": "MDB_PAGE_NOTFOUND: Requested page not found (page 2 of 2 in data.mdb)",
    f"{TIME} db_mdb_noise.prototxt": "MDB_CORRUPTED: Located page was wrong type",
    # it takes what it can read of these for a net or a state; a folder is one without fields
    f"{TEST} m_empty.caffemodel": "Found an empty file, expected a binary caffe.NetParameter",
    f"{TEST} m_empty.caffemodel.h5": "Found an empty file, expected a binary caffe.NetParameter",
    f"{TEST} m_text.caffemodel": NOT_NET,
    f"{TEST} m_zeros.caffemodel": NOT_NET,
    f"{TRAIN} t_cut.solverstate": NOT_STATE,
    f"{TRAIN} t_cut_1.solverstate": NOT_STATE,
    f"{TRAIN} t_text.solverstate": NOT_STATE,
    f"{TRAIN} t_empty.solverstate": "Found an empty file, expected a binary caffe.SolverState",
    f"{TRAIN} t_is_model.solverstate": "unknown to Caffe 1.0",
    f"{TRAIN} db": "db: Found a folder, expected a file",
    "train -solver db": "db: Found a folder, expected a file",
    "test -model db -weights x_iter_8.caffemodel": "db: Found a folder, expected a file",
    f"{TIME} mean_corrupt.prototxt": "no binary caffe.BlobProto",
    # it cuts a dimension to 32 bits: 2^32 + 2 is 2
    f"{TEST} m_wide_shape.caffemodel": "blob size exceeds INT_MAX",
    # a window of it begins or ends beyond INT_MAX
    f"{TIME} wide_stride.prototxt": "Check failed: stride_h_ > 0 (-2147483648 vs. 0)",
    f"{TIME} far_stride.prototxt": "pooling windows reach over 2147483650 x 2147483650 values",
    f"{TIME} far_pad.prototxt": "pooling windows reach over 2147483655 x 2147483655 values",
    # it trains from there to max_iter, or looks for a stepvalue before the first
    f"{TRAIN} t_negative_iter.solverstate": "t_negative_iter.solverstate: found iter -1, expected 0 or more",
    f"{TRAIN} t_negative_step.solverstate": "t_negative_step.solverstate: found current_step -1, expected 0 or more",
    "train -solver s_hdf5.prototxt -snapshot t_negative_step.solverstate.h5": "found current_step -1, expected 0 or more",
    # it takes any bytes for text
    f"{TIME} not_utf8.prototxt": "not_utf8.prototxt:8:20: Found byte 0xFF, expected UTF-8 text",
    # it divides by 0
    f"{TIME} zero_stride.prototxt": "Check failed: stride_h_ > 0 (0 vs. 0)",
    # LevelDB is a package of its own here
    f"{TIME} no_backend.prototxt": "backend LEVELDB cannot be read without the package plyvel",
    # it dies of an exception that nobody catches
    "train -solver solver.prototxt -gpu x": "-gpu x: expected device IDs separated by ',', or all",
    "device_query -gpu x": "-gpu x: expected device IDs separated by ',', or all",
}


def cases(folder: Path) -> list[str]:
    """Every command line: one for each bad file in `folder`, and `OTHERS`."""
    found = []
    for name in sorted(path.name for path in folder.iterdir()):
        kind, ending = name[:2], name.partition(".")[2]
        if kind == "m_" and ending.startswith("caffemodel"):
            found.append(f"{TEST} {name}")
        elif kind == "t_" and ending == "solverstate":
            found.append(f"{TRAIN} {name}")
        elif kind == "t_" and ending == "solverstate.h5":
            found.append(f"train -solver s_hdf5.prototxt -snapshot {name}")
        elif kind == "s_" and ending == "prototxt":
            found.append(f"train -solver {name}")
        elif ending == "prototxt" and name not in ("net.prototxt", "solver.prototxt"):
            in_test = name in ("top_k.prototxt", "include_exclude.prototxt")
            found.append(f"{TIME} {name}" + " -phase TEST" * in_test)
    return found + OTHERS


def prepare(folder: Path, train: Sequence[str]) -> None:
    """All files, good and bad, in `folder`; `train` is the command that makes the snapshots to damage."""
    files.write_good(folder)
    files.write_bad(folder)
    (folder / "flags").write_text(
        "# flags in a file\n-solver=net.prototxt\nnobody\n-nope=3\ncaffe caffe-torch\n-level=3\n"
    )
    for solver in ("solver.prototxt", "s_hdf5.prototxt"):
        subprocess.run(
            [*train, "train", "-solver", solver], cwd=folder, env=environment(), check=True, capture_output=True
        )
    files.write_bad_snapshots(folder)


def environment() -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GLOG", "FLAGS_"))}
    return env | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "GLOG_logtostderr": "1"}


def fatal(err: str) -> list[str]:
    """The messages of the F lines."""
    return [match[1] for line in err.splitlines() if (match := re.match(r"F\d{4} [^\]]*\] (.*)", line))]


def said(message: str) -> str:
    """Caffe's own sentence in an F line: without the condition that failed, where words follow it."""
    words = re.match(r"Check failed: .+? \(.* vs\. .*?\) (\S.*)", message)
    if words is None and not re.search(r"\(.* vs\. .*\) *$", message):
        words = re.match(r"Check failed: .*? ((?:[A-Z][a-z]*n't|[A-Z][A-Za-z]+|kernel_size must) .*)$", message)
    return (words[1] if words else message).strip()


def outcome(status: int, err: str) -> dict[str, Any]:
    """What of a run of the real binary is kept."""
    kept: dict[str, Any] = {"status": status if status in (0, 1) else "abort"}
    found = fatal(err)
    if found:
        kept["said"] = said(found[0])
    elif kept["status"] == "abort":
        kept["status"] = "crash"
    if errors := [line for line in err.splitlines() if line.startswith("ERROR: ")]:
        kept["errors"] = errors
    if parser := re.search(r"Error parsing text-format caffe\.\w+: \d+:\d+: (.*)", err):
        kept["parser"] = parser[1]
    return kept


def run_real(folder: Path, arguments: str) -> dict[str, Any]:
    command = [str(CAFFE), *arguments.split()]
    result = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, timeout=120)
    return outcome(result.returncode, result.stderr.decode("utf-8", "replace"))


def main() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, [str(CAFFE)])
        old = json.loads(GOLDEN.read_text()) if "--new" in sys.argv[1:] else {}
        answers = {arguments: old.get(arguments) or run_real(folder, arguments) for arguments in cases(folder)}
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in answers.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    unknown = set(DIFFERENT) - set(answers)
    print(f"{len(answers)} command lines, {len(DIFFERENT)} of them different here", file=sys.stderr)
    if unknown:
        sys.exit(f"DIFFERENT names what is no case: {', '.join(sorted(unknown))}")


if __name__ == "__main__":
    main()
