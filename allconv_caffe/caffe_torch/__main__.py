"""``caffe-torch``, and ``python -m allconv_caffe.caffe_torch``: the command, with the drop-in for users' Python layers.

``caffe-torch convert_imageset ...`` and so on are Caffe's other programs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from allconv_caffe import interrupts
from allconv_caffe.caffe_torch import import_caffe
from allconv_caffe.caffe_torch.tools import caffe, others


def main(argv: Sequence[str] | None = None) -> int:
    import_caffe.answer_with(_pycaffe)
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] in others.NAMES:
        program = others.load(arguments[0])
        interrupts.raise_again()
        return program(arguments[1:])
    return caffe.main(argv)


def _pycaffe() -> None:
    from allconv_caffe import pycaffe  # only where a net has a Python layer

    pycaffe.install()


if __name__ == "__main__":
    sys.exit(main())
