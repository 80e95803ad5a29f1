// The Python module pyeqgan._C. It only tells how it was built: importing it registers the operations' CPU kernels
// (see the STABLE_TORCH_LIBRARY_IMPL blocks of the glue). No tensor passes through pybind11.
#include <pybind11/pybind11.h>

#include "cpu/dispatch.h"

#ifndef PYEQGAN_BUILD_FLAGS
#define PYEQGAN_BUILD_FLAGS ""
#endif
#ifndef PYEQGAN_CUDA_ARCHS
#define PYEQGAN_CUDA_ARCHS ""
#endif
#ifndef PYEQGAN_CUDA_SOURCES
#define PYEQGAN_CUDA_SOURCES ""
#endif

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of pyeqgan";
  m.def("cpu_capability", &pyeqgan::cpu::capability_name, "The instruction set of the CPU kernels in this process.");
  m.def(
      "build_info",
      [] {
        pybind11::dict info;
        info["compiler"] = __VERSION__;
        info["flags"] = PYEQGAN_BUILD_FLAGS;
        info["torch"] = PYEQGAN_TORCH_VERSION;
        info["cuda_archs"] = PYEQGAN_CUDA_ARCHS;
        info["cuda_sources"] = PYEQGAN_CUDA_SOURCES;
        return info;
      },
      "How the module was compiled.");
}
