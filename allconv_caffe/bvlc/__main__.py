"""``python -m allconv_caffe.bvlc``: find or install a real Caffe."""

from __future__ import annotations

import sys

from allconv_caffe.bvlc.find import main

if __name__ == "__main__":
    sys.exit(main())
