"""Caffe on PyTorch: the same prototxt, blobs, layers, nets and solvers, with explicit forward and backward."""
