"""The Triton kernels, installed as :mod:`pyeqgan.kernels`: one module per operation, with ``forward`` and ``backward``.

Triton is first imported by the module of an operation. Where a GPU has no recorded run they are not the default, see
:mod:`pyeqgan.backends`; with TRITON_INTERPRET=1 in the environment from the start they run on CPU tensors.

Raises:
    ImportError: imported as ``kernels``, from the root of the source tree, or without Triton installed.
"""

import importlib.util

if __name__ == "kernels":
    raise ImportError("this folder is installed as a part of pyeqgan: import pyeqgan.kernels instead of kernels")
if importlib.util.find_spec("triton") is None:
    raise ImportError("pyeqgan.kernels needs Triton, which is not installed: pip install 'pyeqgan[triton]'")
