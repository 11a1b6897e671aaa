"""Variants from a user's own table or from the paper's networks, and errors that name the entry."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from allconv_caffe.paper import derive as d
from allconv_caffe.paper.architectures import MODEL_C, Conv, Pool
from allconv_caffe.paper.changes import with_depth
from allconv_caffe.paper.errors import TableError
from allconv_caffe.paper.plan import map_sizes
from allconv_caffe.proto import NetParameter, SolverParameter, parse_text

TINY = """
name = "tiny"
transform = "all_conv"
classes = 4
pool_dropout = 0.5
[[layer]]
type = "conv"
num_output = 32
kernel_size = 3
[[layer]]
type = "max_pool"
kernel_size = 3
stride = 2
[[layer]]
type = "conv"
num_output = "classes"
kernel_size = 1
[[layer]]
type = "global_pool"
[options]
n_train = 1500
n_test = 500
epochs = 3
train_lmdb = "data/mine/train_lmdb"
test_lmdb = "data/mine/test_lmdb"
"""


def write_table(folder: Path, text: str, name: str = "t.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def widths(derived: d.Derived) -> list[object]:
    return [row.num_output for row in derived.architecture.layers if isinstance(row, Conv)]


def test_toml_table(tmp_path: Path) -> None:
    """A TOML table becomes a folder whose solver names it: 3*9*32+32 + 32*9*32+32 + 32*4+4 parameters."""
    derived = d.derive(write_table(tmp_path, TINY), tmp_path / "out", root=tmp_path)
    assert derived.parameters == 896 + 9248 + 132
    assert map_sizes(derived.architecture) == [32, 16, 16]
    solver = parse_text((tmp_path / "out/solver.prototxt").read_text(), SolverParameter)
    assert solver.net == "out/train_val.prototxt"
    assert (tmp_path / solver.snapshot_prefix).parent.is_dir()
    assert solver.max_iter == 35 and solver.test_iter[0] * 100 == 500
    net = parse_text((tmp_path / solver.net).read_text(), NetParameter)
    assert net.layer[0].data_param.source == "data/mine/train_lmdb"
    convs = [layer.convolution_param for layer in net.layer if layer.type == "Convolution"]
    assert [(conv.num_output, list(conv.stride)) for conv in convs] == [(32, []), (32, [2]), (4, [])]
    assert [layer.name for layer in net.layer if layer.type == "Dropout"] == ["drop1"]


def test_python_table(tmp_path: Path) -> None:
    """A Python table sets ARCHITECTURE, with our constructors or as a table of the same form as TOML."""
    text = (
        "from allconv_caffe.paper.architectures import *\n"
        "from allconv_caffe.paper.options import RenderOptions\n"
        "ARCHITECTURE = Architecture('my net', 'mine', (conv(8, kernel_size=3), max_pool(2, 2), conv(CLASSES, 1),"
        " global_pool()), classes=7)\n"
        "OPTIONS = RenderOptions(lr=0.01)\n"
    )
    derived = d.derive(write_table(tmp_path, text, "t.py"), tmp_path / "out", transform="strided", root=tmp_path)
    assert derived.architecture.name == "my-net"
    assert derived.parameters == 3 * 9 * 8 + 8 + 8 * 7 + 7
    assert "base_lr: 0.01" in (tmp_path / "out/solver.prototxt").read_text()
    again = d.derive(
        write_table(tmp_path, "ARCHITECTURE = {'name': 'x', 'base': 'model_a'}", "u.py"), tmp_path / "o2", root=tmp_path
    )
    assert again.parameters == 839_242


def test_paper_network_with_changes(tmp_path: Path) -> None:
    """A network of the paper with other widths, kernel sizes, depth or transformation."""
    half = d.derive("all_cnn_c", tmp_path / "half", width_multiplier=0.5, root=tmp_path)
    assert widths(half) == [48, 48, 48, 96, 96, 96, 96, 96, "classes"]
    named = d.derive("all-cnn-c", tmp_path / "named", widths=[64, 128], transform="strided", root=tmp_path)
    assert widths(named) == [64, 64, 128, 128, 128, 128, "classes"]
    assert named.architecture.steps == ("strided",)
    deep = d.derive("convpool_cnn_b", tmp_path / "deep", depth=3, kernel_sizes={5: 3}, root=tmp_path)
    sizes = [row.kernel_size for row in deep.architecture.layers if isinstance(row, Conv)]
    assert sizes == [3, 1, 1, 3, 3, 1, 1, 3, 3, 1, 1]
    first = (tmp_path / "half/solver.prototxt").read_text().splitlines()[0]
    assert first == (
        "# all_cnn_c: derived from Table 1, column C. Rendered by: "
        f"allconv derive all_cnn_c --output {tmp_path / 'half'} --width-multiplier 0.5"
    )


def test_unchanged_network_is_the_papers(tmp_path: Path) -> None:
    """Without changes the derived net has the layers of the committed one; on CIFAR-100 it has 100 outputs."""
    d.derive("all_cnn_c", tmp_path / "same", root=tmp_path)
    committed = Path(__file__).resolve().parents[2] / "solvers/cifar10-allcnn-c/deploy.prototxt"
    same = (tmp_path / "same/deploy.prototxt").read_text().splitlines()
    assert same[2:] == committed.read_text().splitlines()[2:]
    hundred = d.derive("all_cnn_c", tmp_path / "hundred", dataset="cifar100", root=tmp_path)
    assert "num_output: 100" in (tmp_path / "hundred/deploy.prototxt").read_text()
    assert hundred.experiment.dataset.name == "cifar100"
    large = d.derive("imagenet", tmp_path / "imagenet", root=tmp_path)
    assert large.parameters == 9_372_840 and large.experiment.dataset.name == "imagenet"


def test_table_on_a_base(tmp_path: Path) -> None:
    """A table may start from a network of the paper and change it, with the number of classes and options of its own."""
    text = 'name = "small"\nbase = "all_cnn_c"\nclasses = 5\n[change]\nwidths = { 96 = 16, 192 = 24 }\ndepth = 1\n'
    derived = d.derive(
        write_table(tmp_path, text), tmp_path / "out", options={"lr": 0.1, "epochs": None}, root=tmp_path
    )
    assert widths(derived) == [16, 16, 24, 24, 24, 24, "classes"]
    assert "base_lr: 0.1" in (tmp_path / "out/solver.prototxt").read_text()
    deploy = parse_text((tmp_path / "out/deploy.prototxt").read_text(), NetParameter)
    assert [one.convolution_param.num_output for one in deploy.layer if one.type == "Convolution"][-1] == 5


def test_depth() -> None:
    """depth repeats the last convolution of each block or cuts the block, and leaves pools and top alone."""
    deeper = with_depth(MODEL_C, 4)
    assert [type(row) for row in deeper.layers[:5]] == [Conv] * 4 + [Pool]
    assert with_depth(MODEL_C, 2) == MODEL_C
    assert len(with_depth(MODEL_C, 1).layers) == len(MODEL_C.layers) - 2


LAYERS = '[[layer]]\ntype = "conv"\nnum_output = "classes"\nkernel_size = 1\n[[layer]]\ntype = "global_pool"\n'
HEAD = 'name = "x"\n'
WRONG = [
    (HEAD + '[[layer]]\ntype = "cnov"\n', "layer 1: type: found 'cnov', expected a type of layer"),
    (HEAD + "[[layer]]\nnum_output = 3\n", "layer 1: type: found 'nothing', expected a type of layer"),
    (HEAD + '[[layer]]\ntype = "conv"\nkernel_size = 3\n', "layer 1: num_output: found 'nothing', expected a whole"),
    (HEAD + '[[layer]]\ntype = "conv"\nnum_output = 3\n', "layer 1: kernel_size: found 'nothing', expected a whole"),
    (HEAD + '[[layer]]\ntype = "max_pool"\nkernel_size = 3\n', "layer 1: stride: found 'nothing', expected a whole"),
    (HEAD + LAYERS.replace("kernel_size = 1", "kernel_size = 0"), "kernel_size: found 0, expected a whole number"),
    (
        HEAD + LAYERS.replace("kernel_size", "kernelsize"),
        "layer 1: kernelsize: found 'kernelsize', expected a known key",
    ),
    (HEAD + LAYERS.replace('"classes"', "10"), "last convolution: num_output: found 10, expected 'classes'"),
    (HEAD + LAYERS.replace('"classes"', '"many"'), "num_output: found 'many', expected a whole number"),
    (HEAD + "relu = true\n" + LAYERS, "relu: found 'relu', expected a known key"),
    (HEAD + 'transform = "allconv"\n' + LAYERS, "transform: found 'allconv', expected the name of a transformation"),
    (HEAD + 'transform = "strided"\n' + LAYERS, "transform strided: found 'no pool', expected at least one pool"),
    (HEAD + "classes = 0\n" + LAYERS, "classes: found 0, expected a whole number of at least 1"),
    (HEAD + "input_shape = [3, 32]\n" + LAYERS, "input_shape: found [3, 32], expected [channels, height, width]"),
    (HEAD + "pool_dropout = 1.5\n" + LAYERS, "pool_dropout: found 1.5, expected a rate of at least 0 and below 1"),
    (HEAD + 'base = "model_x"\n', "base: found 'model_x', expected a network of the paper"),
    (HEAD + 'base = "model_a"\n' + LAYERS, "base, layer: found 'both', expected either"),
    (HEAD, "base, layer: found 'neither', expected either"),
    (LAYERS, "name: found 'nothing', expected a name"),
    ('name = "a b"\n' + LAYERS, "name: found 'a b', expected letters"),
    (
        HEAD + 'base = "model_a"\n[change]\nwidths = [8]\n',
        "Model A: widths: found [8], expected 2 widths, in place of [96, 192]",
    ),
    (HEAD + 'base = "model_a"\n[change]\nwidths = { 95 = 8 }\n', "widths: found 95, expected a width of the base"),
    (HEAD + 'base = "model_a"\n[change]\nkernel_sizes = { 7 = 3 }\n', "kernel_sizes: found 7, expected a kernel size"),
    (HEAD + 'base = "model_a"\n[change]\ndepth = 0\n', "depth: found 0, expected a whole number of at least 1"),
    (HEAD + 'base = "model_a"\n[change]\nwidth = 1\n', "change: width: found 'width', expected a known key"),
    (HEAD + LAYERS + "[options]\nbatch = 3\n", "options: batch: found 'batch', expected a known key"),
    (HEAD + LAYERS + "[options]\nbatch_size = 0\n", "options: option batch_size: found 0, expected a whole number"),
    (HEAD + "layer = 3\n", "layer: found 3, expected a list of tables, each [[layer]]"),
    (HEAD + "transform = []\n" + LAYERS, "transform: found [], expected the name of a transformation"),
    (HEAD + 'source = "a\\n}"\n' + LAYERS, "source: found 'a\\n}', expected one line of text"),
    (
        HEAD + LAYERS.replace("kernel_size = 1", "kernel_size = 1\npad = 4294967296"),
        "layer 1: pad: found 4294967296, expected a",
    ),
    (
        HEAD + LAYERS.replace("kernel_size = 1", "kernel_size = 1\ndropout = 0.999999999"),
        "dropout: found 0.999999999, expected",
    ),
    (
        HEAD + 'base = "model_a"\n[change]\ndepth = 1001\n',
        "depth: found 1001, expected at most 1000 convolutions before",
    ),
    (
        HEAD + 'base = "model_a"\n[change]\nwidth_multiplier = 1e9\n',
        "num_output: found 96000000000, expected a whole number",
    ),
    ("name = \n", "expected TOML"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_wrong_tables(text: str, message: str, tmp_path: Path) -> None:
    """A wrong table gets one line that begins with the file, names the entry, and writes nothing."""
    path = write_table(tmp_path, text)
    with pytest.raises(TableError) as caught:
        d.derive(path, tmp_path / "out", root=tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and message in said and "\n" not in said
    assert not (tmp_path / "out").exists()


def test_wrong_sources(tmp_path: Path) -> None:
    """Missing files, other suffixes, Python that fails or sets nothing, unknown names: each is named."""
    for name, text, message in (
        ("a.py", "1/0", "found 'ZeroDivisionError: division by zero'"),
        ("b.py", "", "ARCHITECTURE: found 'nothing', expected an Architecture"),
        ("c.txt", "", "found '.txt', expected a table (choices: .toml, .py)"),
        (
            "d.py",
            "from allconv_caffe.paper.architectures import *\nARCHITECTURE = Architecture('x', 'y', ())",
            "at least one conv",
        ),
        (
            "e.py",
            "from allconv_caffe.paper.architectures import *\nARCHITECTURE = Architecture('x', 'y', None)",
            "x: layers: found None, expected a tuple of layers",
        ),
        (
            "f.py",
            "from allconv_caffe.paper.architectures import *\nARCHITECTURE = Architecture(5, 'y', (conv(CLASSES, 1), global_pool()))",
            "5: name: found 5, expected one line of text",
        ),
    ):
        with pytest.raises(TableError) as caught:
            d.derive(write_table(tmp_path, text, name), tmp_path / "out", root=tmp_path)
        assert message in str(caught.value) and str(caught.value).startswith(str(tmp_path / name))
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.py").mkdir()
    deep = write_table(tmp_path, "a = " + "[" * 10_000, "deep.toml")
    for source, message in (
        ("none.toml", "none.toml: found 'no such file'"),
        ("nope", "base: found 'nope'"),
        (tmp_path / "pipe.toml", f"{tmp_path}/pipe.toml: found 'a pipe, expected a file'"),
        (tmp_path / "folder.py", f"{tmp_path}/folder.py: found 'Is a directory'"),
        (deep, f"{deep}: found 'maximum recursion depth exceeded'"),
    ):
        with pytest.raises(TableError) as caught:
            d.derive(source, tmp_path / "out", root=tmp_path)
        assert str(caught.value).startswith(message)
    with pytest.raises(TableError, match="option dataset: found 'mnist'"):
        d.derive("model_a", tmp_path / "out", dataset="mnist", root=tmp_path)


def test_numbers_from_text() -> None:
    """Widths and kernel sizes are typed as 64,128 or 96=64,192=128."""
    assert d.numbers_from_text("64, 128", "x") == [64, 128]
    assert d.numbers_from_text("96=64,192=128", "x") == {96: 64, 192: 128}
    with pytest.raises(TableError, match="option widths: found '64;128'"):
        d.numbers_from_text("64;128", "option widths")


def test_table_of_the_page(tmp_path: Path) -> None:
    """The table that docs/architectures.md shows is one that derive takes."""
    page = (Path(__file__).resolve().parents[2] / "docs/architectures.md").read_text(encoding="utf-8")
    text = page.split("```toml\n")[1].split("```")[0]
    derived = d.derive(write_table(tmp_path, text), tmp_path / "out", root=tmp_path)
    assert derived.parameters == 896 + 9248 + 330


def test_commands(tmp_path: Path) -> None:
    """allconv derive writes the folder that allconv summary reads."""
    from click.testing import CliRunner

    from allconv_caffe.cli.tables import derive, summary

    out = tmp_path / "out"
    done = CliRunner().invoke(derive, ["model_a", "--output", str(out), "--widths", "8,16", "--set", "lr=0.01"])
    assert done.exit_code == 0, done.output
    assert "caffe train -solver" in done.output and "base_lr: 0.01" in (out / "solver.prototxt").read_text()
    read = CliRunner().invoke(
        summary, [str(out / "train_val.prototxt"), "--input-shape", "3,32,32", "--format", "json"]
    )
    assert read.exit_code == 0, read.output
    parameters = 3 * 25 * 8 + 8 + 8 * 25 * 16 + 16 + 16 * 9 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10
    assert f'"parameters": {parameters}' in read.output
