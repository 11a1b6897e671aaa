"""``python -m allconv_caffe.caffe_torch``: the command ``caffe-torch``."""

from __future__ import annotations

import sys

from allconv_caffe.caffe_torch.tools.caffe import main

if __name__ == "__main__":
    sys.exit(main())
