"""``docs/architectures.md``: the counts beside the published ones, and every assumption; written from the tables."""

from __future__ import annotations

from allconv_caffe import markdown
from allconv_caffe.paper.architectures import architecture
from allconv_caffe.paper.assumptions import ASSUMPTIONS
from allconv_caffe.paper.options import NetOptions
from allconv_caffe.paper.plan import map_sizes, parameters
from allconv_caffe.paper.published import TABLE_3_ERRORS


def _measured(name: str, options: NetOptions | None = None) -> int:
    return parameters(architecture(name), options)


def _map_sizes(name: str) -> str:
    return ", ".join(map(str, map_sizes(architecture(name))))


def _counts() -> list[str]:
    rows, hundred = [], NetOptions(num_output=100)
    for name, (title, _, published) in TABLE_3_ERRORS.items():
        count = _measured(name)
        off = f"{100 * (float(published.split()[0]) * 1e6 / count - 1):+.0f} %"
        rows.append([title, f"{count:,}", f"{_measured(name, hundred):,}", published, off, _map_sizes(name)])
    for name, title, published in (("large_all_cnn", "Large-All-CNN", "> 50 M"), ("imagenet", "ImageNet", "< 10 M")):
        rows.append([title, f"{_measured(name):,}", "", published, "", _map_sizes(name)])
    head = ("network", "built", "100-way", "paper", "paper is off by", "map sizes")
    return markdown.table(head, rows, right=(1, 2, 3, 4))


FAMILIES = {
    "cifar": "Models A, B, C and their derivatives, on CIFAR-10 and CIFAR-100",
    "large": "Large-All-CNN",
    "imagenet": "The ImageNet network",
}


def document() -> str:
    """``docs/architectures.md``."""
    model_a, model_b, model_c = (_measured(name) for name in ("model_a", "model_b", "model_c"))
    off = 100 * (1.3e6 / model_c - 1)
    lines = [
        _HEAD,
        *_counts(),
        "",
        _CONTRADICTION.format(a=model_a, b=model_b, c=model_c, off=off),
    ]
    for family, title in FAMILIES.items():
        rows = [
            [f"`{entry.key}`", entry.value, entry.reason, entry.choices]
            for entry in ASSUMPTIONS
            if family in entry.families
        ]
        lines += ["", f"### {title}", "", *markdown.table(("point", "taken", "why", "else"), rows)]
    return "\n".join([*lines, "", _TABLE_OF_YOUR_OWN]) + "\n"


_HEAD = """# Architectures

Written by `python -m allconv_caffe.paper.page > docs/architectures.md` from the tables in `allconv_caffe/paper/`; a test
compares.

Twelve networks are three base tables (Table 1: Models A, B, C) and three transformations (section 3.1, Table 2):

* `strided`: each pool is dropped; the convolution before it takes the pool's stride on top of its own.
* `conv_pool`: one more convolution before each pool, with the pool's kernel size and stride 1.
* `all_conv`: each pool becomes a convolution with the pool's kernel size and stride.

An added convolution keeps the number of channels. Two more make the controls that the paper speaks of:

* `pnorm_pool` (Equation 1): each pool becomes p-norm pooling, (sum over the window of |x|^p)^(1/p), from layers that stock
  Caffe has: Power, a convolution of each channel by itself with weights of 1, Power. Options `pnorm` (p, 2 by default; the
  greater, the nearer to max-pooling) and `pnorm_mean`. |x|^p must lie in what float32 holds: at p = 2 from 1e-19 to 1e19, at
  p = 16 from 0.005 to 250.
* `fully_connected` (section 3.1): the class layer and the average become one fully connected layer; option `fc_head` has
  two other readings.

They work for any base, see below, and one after another: `--transform all_conv,fully_connected`.
Large-All-CNN (Table 5) and the ImageNet network (Table 6) are tables of their own.

Convolutions are conv1 to convN, their ReLUs relu1 to reluN (in place), fully connected layers are numbered on from the
convolutions (fc9), pools pool1 and so on; drop0 is the
dropout on the input; then come global_pool, accuracy and loss; in deploy, prob.

## Parameters

Weights and biases, as built and as printed in the paper; map sizes in pixels after each convolution and pool.
"""

_CONTRADICTION = """**Model C contradicts the paper.** With Table 1's layers Model C and Strided-CNN-C have {c:,} parameters;
Table 3 prints 1.3 M, {off:.0f} % more. No reading of Table 1 explains the rest, while
{a:,}, {b:,}, {c:,} fit the text's "the depth and number of parameters gradually
increases". Table 4 in turn prints 1.3 M for All-CNN-C where Table 3 prints 1.4 M. The other figures of Table 3
lie 2 to 13 % above the counts. What is built is Table 1; reports print both numbers.

Every one of the twelve reaches 6x6 before the global average, as Table 1 says, with no padding on the 3x3
convolution above the last pool.

## Schedules

iterations = epochs * training images / batch size, rounded to the nearest whole number, halves up. For CIFAR with
batch 128 the drops after 200, 250 and 300 of 350 epochs fall on iterations 78125, 97656 and 117188 of 136719; an
epoch is 390.625 iterations, so tests come every 391. `EPOCHS=n` stretches the whole schedule in proportion. The
last iteration is in general no multiple of the test interval, and Caffe then ends without a test: the final error
comes from a test of the last snapshot, not from the training log.

## What the paper leaves open

Every default that the paper does not state, why it is taken, and what else may be chosen (options of
`allconv render`)."""

_TABLE_OF_YOUR_OWN = """## A table of your own

`allconv derive TABLE.toml --output FOLDER` writes solver, train_val and deploy for a network of your own; `caffe train`
takes them as they are, and `allconv run FOLDER` [as it runs the experiments](driver.md#a-net-of-your-own). `allconv derive all_cnn_c
--width-multiplier 0.5 --output FOLDER` changes a network of the paper; `--widths`, `--kernel-sizes`, `--depth` and `--transform` too.
A table:

```toml
name = "tiny"              # letters, digits, ".", "_", "-"
transform = "all_conv"     # none, strided, conv_pool, all_conv, pnorm_pool, fully_connected; several with commas
input_shape = [3, 32, 32]  # channels, height, width; the default
classes = 10               # the default: the data set's
input_dropout = 0.2        # the default: 0
pool_dropout = 0.5         # after each pool, or the layer that replaces it; the default: 0
# also: source, negative_slope, filler

[[layer]]
type = "conv"              # conv, max_pool, average_pool, norm_pool (kernel_size, stride, p), global_pool, fc
num_output = 32            # or "classes"
kernel_size = 3            # also: stride, pad (pixels or "same"), relu, dropout

[[layer]]
type = "max_pool"          # or average_pool; also: pad
kernel_size = 3
stride = 2

[[layer]]
type = "conv"
num_output = "classes"
kernel_size = 1

[[layer]]
type = "global_pool"

[options]                  # options of `allconv render`, with "_" for "-"
train_lmdb = "data/mine/train_lmdb"
test_lmdb = "data/mine/test_lmdb"
n_train = 1500
n_test = 500
```

Instead of `[[layer]]` entries a table may say `base = "model_c"` (or another of the paper's networks); `[change]` with
`widths`, `width_multiplier`, `kernel_sizes` or `depth` acts on either, before the transformation. A Python table is a
file that sets `ARCHITECTURE` with the constructors of `allconv_caffe.paper.architectures`; it is executed."""


if __name__ == "__main__":
    print(document(), end="")
