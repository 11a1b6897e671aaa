"""One solver type per file, as in Caffe's src/caffe/solvers."""
