"""What the paper leaves open: what is taken, why, and what else may be chosen. Reports print it; it stands nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, replace

from allconv_caffe.paper.architectures import Architecture
from allconv_caffe.paper.options import NetOptions


@dataclass(frozen=True, kw_only=True)
class Assumption:
    """One point that the paper leaves open."""

    key: str  # the point
    value: str  # what is taken
    reason: str  # why
    choices: str  # what else may be chosen
    families: tuple[str, ...] = ("cifar",)  # the tables that it concerns
    option: str = ""  # the field of the options that changes it; "": none does
    steps: tuple[str, ...] = ()  # the transformations that it concerns; (): any network


_ALL = ("cifar", "large", "imagenet")

ASSUMPTIONS: tuple[Assumption, ...] = (
    Assumption(
        key="batch_size",
        value="128",
        reason="not stated for CIFAR; Network in Network and maxout, whose recipes the paper follows, use 128",
        choices="any; 256 repeats the only logged Caffe reproduction",
        option="batch_size",
    ),
    Assumption(
        key="filler",
        value="xavier",
        reason="not stated; Caffe's xavier had the only logged success in Caffe, and msra entered Caffe after the paper",
        choices="xavier, gaussian (std 0.05), msra, graham",
        option="filler",
    ),
    Assumption(
        key="bias_filler", value="constant 0", reason="not stated; Caffe's default", choices="none", families=_ALL
    ),
    Assumption(
        key="pad",
        value="same: (kernel_size - 1) // 2",
        reason="not stated; forced by 32, 16, 8 and then 6x6 before the global average",
        choices="per layer, in a table of one's own",
    ),
    Assumption(
        key="conv7_pad",
        value="0",
        reason="Table 1 says 6x6; with no padding on the 3x3 convolution above the last pool all twelve networks give 6x6",
        choices="1 gives 8x8",
        option="conv7_pad",
    ),
    Assumption(
        key="pool_pad",
        value="0, map size rounded up",
        reason="not stated; Caffe's default gives 32, 16, 8; padding 1 would give 17",
        choices="per layer, in a table of one's own",
    ),
    Assumption(
        key="stride_on",
        value="1x1",
        reason='"the convolution layers preceding the max-pool layers": in Model B the 1x1 stands directly before the pool',
        choices="1x1, 5x5",
        option="stride_on",
        steps=("strided",),
    ),
    Assumption(
        key="extra_conv",
        value="3x3 with ReLU, last in its block",
        reason='"the same kernel size as the respective pooling layer"; the counts of Table 3 fit 3x3 and not 5x5',
        choices="none",
        steps=("conv_pool", "all_conv"),
    ),
    Assumption(
        key="fc_head",
        value="class_layer",
        reason='"fully connected layers instead of 1-by-1 convolutions", "in line with" Network in Network, whose control '
        "replaces its last layer and the average by one fully connected layer; its figures differ by 0.47 with dropout and 1.18 "
        "without",
        choices="class_layer (with the average, dropout of 0.5 below it), all_1x1 (the 1x1 convolution below it too), average (the "
        "average alone)",
        option="fc_head",
        steps=("fully_connected",),
    ),
    Assumption(
        key="pnorm_windows",
        value="centred, zeros beyond the border, no learned weights",
        reason="Equation 1 sums over -k/2 to k/2 around the stride's multiples; Caffe's max-pooling windows begin there",
        choices="pnorm (p), pnorm_mean (the mean in place of the sum)",
        steps=("pnorm_pool",),
    ),
    Assumption(
        key="relu_last",
        value="true",
        reason='Tables 1 and 6 print "conv. 10 ReLU" and "conv. 1000 ReLU"',
        choices="true, false (false removes one way for a net to die)",
        families=("cifar", "imagenet"),
        option="relu_last",
    ),
    Assumption(
        key="dropout",
        value="paper",
        reason="input, and after each pool or the layer that replaces it; in the strided nets that is the strided convolution",
        choices="paper, all, 1x1 (footnote 4; the class layer has none, 1x1 is the one below it), none",
        option="dropout",
    ),
    Assumption(
        key="bias_lr_mult",
        value="1",
        reason="not stated; Caffe's default",
        choices="any; 2 is the habit of Caffe's examples",
        families=("cifar", "large"),
        option="bias_lr_mult",
    ),
    Assumption(
        key="bias_decay_mult",
        value="1",
        reason='"all models were regularized with weight decay", "in all layers"',
        choices="any; 0 is the habit of Caffe's examples",
        families=("cifar", "large"),
        option="bias_decay_mult",
    ),
    Assumption(
        key="weight_decay_meaning",
        value="gradient += lambda * weight",
        reason="the paper's experiments ran in Caffe, whose weight_decay means this",
        choices="none",
        families=_ALL,
    ),
    Assumption(
        key="lr",
        value="0.05; 0.01 for Model C and Strided-CNN-C",
        reason="the best of [0.25, 0.1, 0.05, 0.01] per network is not given; the logged reproductions of All-CNN-C use 0.05; "
        "with it Model C died here, and Strided-CNN-C ended worse than with 0.01",
        choices="any; the paper's set is 0.25, 0.1, 0.05, 0.01",
        option="lr",
    ),
    Assumption(
        key="reported_iteration",
        value="the last",
        reason="not stated; choosing a snapshot on test data would flatter the result",
        choices="none",
        families=_ALL,
    ),
    Assumption(
        key="epoch_rounding",
        value="iterations = epochs * images / batch, rounded to the nearest, halves up",
        reason="a schedule in epochs; 50,000 is no multiple of 128",
        choices="a batch size that divides the images",
    ),
    Assumption(
        key="augmentation",
        value="zero padding by 5 pixels after whitening, random 32x32 crop, flip with probability 1/2 in training",
        reason='"a maximum translation of 5 pixels", "horizontally flipped examples", order as in the maxout recipe',
        choices="crop_size and mirror; cifar10-allcnn-c-copies: the flipped and the translated copies stored before training, four "
        "records for an image, as many iterations (Caffe of 2014 could not crop whitened records)",
    ),
    Assumption(
        key="cifar100_augmentation",
        value="none",
        reason='Table 4 compares with figures obtained without augmentation; "the same model, all hyperparameters fixed"',
        choices="train_lmdb, test_lmdb, crop_size and mirror",
    ),
    Assumption(
        key="large_class_layer",
        value="conv18, 1x1, 10-way, no ReLU",
        reason="Table 5 ends in conv17 with 1920 channels and a 10-way softmax",
        choices="relu_last",
        families=("large",),
        option="relu_last",
    ),
    Assumption(
        key="large_negative_slope",
        value="0.333",
        reason='the paper says "leaky"; the network it is derived from (Graham) uses very leaky units of slope 0.333',
        choices="any; 0.1 and 0.01 are usual",
        families=("large",),
        option="negative_slope",
    ),
    Assumption(
        key="large_filler",
        value="msra",
        reason="not stated; over 17 leaky layers xavier would shrink the signal to less than a hundredth",
        choices="xavier, gaussian, msra, graham (his own: uniform, s^2 = 6 / (fan_in + fan_out a))",
        families=("large",),
        option="filler",
    ),
    Assumption(
        key="large_solver",
        value="Nesterov, momentum 0.99, base_lr 0.0015, times exp(-0.01) after each epoch, batch 50, no weight decay",
        reason="not stated; Graham's schedule: his step is 0.003 * (1 - momentum) times the gradient summed over the batch of 50, "
        "which Caffe averages; lr_policy step of an epoch, as his program sets the rate, and because a gamma for each iteration "
        "(exp), held in float32, would be 0.6 % off at the end",
        choices="lr, momentum, weight_decay, epochs, batch_size",
        families=("large",),
    ),
    Assumption(
        key="large_epochs",
        value="410, the last 10 without distortion",
        reason="not stated; Graham's later program: 400 epochs with distortion and 10 plain ones",
        choices="epochs (both parts in proportion)",
        families=("large",),
    ),
    Assumption(
        key="large_dropout",
        value="element by element, 10 to 50 % as Table 5 prints them",
        reason="the paper prints rates; Graham drops the same channels for the whole batch",
        choices="batchwise_dropout",
        families=("large",),
    ),
    Assumption(
        key="large_input",
        value="32x32 centred in 126x126 of grey 128, (pixel - 128) / 128; RGB",
        reason='"the image is centered"; scale and background are Graham\'s; no whitening is mentioned for this network',
        choices="another LMDB",
        families=("large",),
    ),
    Assumption(
        key="large_distortion",
        value="width and height times 1 +- 0.2, flip, one of shear along x, shear along y, rotation by up to 0.2, +-16 pixels; "
        "colour: four normal terms with sigmas 0.2, 0.3, 0.6, 0.6",
        reason='"heavily scaled, rotated and color augmented" after Graham: the ranges of his first release',
        choices="colour_form linear (his later program's), graham (his program's slips too)",
        families=("large",),
    ),
    Assumption(
        key="imagenet_pad",
        value="conv1 0, conv3 1, conv4 2, conv6 0, conv7 1, conv9 0, conv10 1",
        reason="not stated; gives maps of 54, 27, 13 and Table 6's 6x6 at 224",
        choices="per layer, in a table of one's own",
        families=("imagenet",),
    ),
    Assumption(
        key="imagenet_input",
        value="images warped to 256x256, minus the mean image of the training set, random 224 crop and mirror in training, centre "
        "in test",
        reason="only the centre 224x224 patch at test is stated; the rest is Network in Network's Caffe recipe for ImageNet, whose "
        "solver is the paper's word for word: rate, steps, iterations, batch and weight decay",
        choices="crop_size, mirror, mean_value, mean_file",
        families=("imagenet",),
    ),
    Assumption(
        key="imagenet_filler",
        value="gaussian: std 0.01 in conv1, conv7 and conv12, 0.05 in the others, 0.03 in conv6 and 0.025 in conv9",
        reason="not stated; that recipe's, layer by layer; conv3, conv6 and conv9, which replace its pools, get (2 / fan_in)^(1/2), "
        "which keeps the signal's size, as pooling does",
        choices="xavier, gaussian with filler_std for all, msra, graham",
        families=("imagenet",),
        option="filler",
    ),
    Assumption(
        key="imagenet_bias_lr_mult",
        value="2",
        reason="not stated; that recipe's",
        choices="any",
        families=("imagenet",),
        option="bias_lr_mult",
    ),
    Assumption(
        key="imagenet_bias_decay_mult",
        value="0",
        reason='"a weight decay of 0.0005 was used in all layers" names no biases; that recipe\'s',
        choices="any",
        families=("imagenet",),
        option="bias_decay_mult",
    ),
    Assumption(
        key="imagenet_momentum",
        value="0.9",
        reason="not stated for ImageNet; as in the CIFAR experiments",
        choices="any",
        families=("imagenet",),
        option="momentum",
    ),
)


def assumptions(base: Architecture, options: NetOptions | None = None) -> list[Assumption]:
    """The open points that concern a network, each with the value that these options give it.

    ``value`` is the chosen one where an option departs from the default. A table of a user's own gets the CIFAR points.
    """
    family = "cifar" if base.family == "own" else base.family
    result = []
    for assumption in ASSUMPTIONS:
        if family not in assumption.families or (assumption.steps and not set(assumption.steps) & set(base.steps)):
            continue
        chosen = getattr(options, assumption.option, None) if assumption.option else None
        if chosen is not None:
            if isinstance(chosen, bool):
                chosen = str(chosen).lower()
            text = f"{chosen:g}" if isinstance(chosen, int | float) else str(chosen)
            assumption = replace(assumption, value=text)
        result.append(assumption)
    return result
