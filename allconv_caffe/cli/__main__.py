"""``python -m allconv_caffe.cli``: the command ``allconv``."""

from __future__ import annotations

import sys

from allconv_caffe.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
