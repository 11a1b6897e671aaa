"""Power at every kind of number, and the rates of 400 iterations; run by test_exact under both. Writes answers as bits."""

import json
import sys

import caffe
import numpy as np

answers = {}


def bits(values):
    array = np.array(values, np.float32)
    array[np.isnan(array)] = np.float32("nan")
    return array.view(np.uint32).tolist()


x = np.array(
    [-np.inf, -3e38, -2.5, -2, -1, -0.5, -1e-40, -0.0, 0, 1e-40, 0.5, 1, 2, 2.5, 3e38, np.inf, np.nan], np.float32
)
NET = """force_backward: true
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: %d } } }
layer { name: "y" type: "Power" bottom: "x" top: "y" power_param { power: %r scale: %r shift: %r } }"""
for power in (0.5, -0.5, 2, 3, -1, -2, -3, 2.5, 0.333333, 0.1, 5, -1.5, 1, 0, 1e-3, 1e10):
    for scale, shift in ((1, 0), (2, 0.5), (0, -2.5), (-1, 0)):
        open("power.prototxt", "w").write(NET % (len(x), power, scale, shift))
        net = caffe.Net("power.prototxt", caffe.TEST)
        net.blobs["x"].data[...] = x
        net.forward()
        net.blobs["y"].diff[...] = 1
        net.backward()
        answers["power %r %r %r" % (power, scale, shift)] = bits([net.blobs["y"].data, net.blobs["x"].diff])

open("net.prototxt", "w").write("""
layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 1 dim: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 1 } }
layer { name: "l" type: "EuclideanLoss" bottom: "ip" bottom: "x" top: "l" }
""")
STEPS = " ".join("stepvalue: %d" % step for step in (3, 9, 10, 11, 50, 120, 121, 200, 300))
for policy, fields in (
    ("fixed", ""),
    ("step", "gamma: 0.9 stepsize: 7"),
    ("exp", "gamma: 0.97"),
    ("exp", "gamma: 1.01"),
    ("inv", "gamma: 0.0001 power: 0.75"),
    ("inv", "gamma: 0.3 power: 0.33"),
    ("multistep", "gamma: 0.5 " + STEPS),
    ("poly", "power: 1"),
    ("poly", "power: 0.5"),
    ("poly", "power: 2.3"),
    ("sigmoid", "gamma: 0.1 stepsize: 100"),
    ("sigmoid", "gamma: 0.03 stepsize: 250"),
):
    for base in (0.01, 0.05, 3e-5):
        open("solver.prototxt", "w").write(
            'net: "net.prototxt" base_lr: %r max_iter: 400 lr_policy: "%s" snapshot_prefix: "z" %s'
            % (base, policy, fields)
        )
        solver = caffe.SGDSolver("solver.prototxt")
        rates = []
        for _ in range(401):
            rates.append(solver.lr)
            solver.apply_update()
        answers["rate %s %s %r" % (policy, fields[:30], base)] = bits(rates)
json.dump(answers, open(sys.argv[1], "w"))
