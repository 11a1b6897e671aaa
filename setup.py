"""Everything there is to say about the package stands in pyproject.toml, but that its models travel in it."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithModels(build_py):
    """models/ as allconv_caffe/models, for `allconv zoo get NAME`; an editable package finds them where they lie."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            into = Path(self.build_lib, "allconv_caffe", "models")
            shutil.rmtree(into, ignore_errors=True)
            shutil.copytree("models", into)


setup(cmdclass={"build_py": WithModels})
