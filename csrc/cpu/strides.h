// Images as the glue describes them to the kernels.
#pragma once

#include <cstdint>

namespace pyeqgan::cpu {

// Strides in elements of a (B,C,H,W) image that is dense as NCHW (w == 1) or NHWC (c == 1).
struct Strides {
  int64_t b, c, h, w;
};

}  // namespace pyeqgan::cpu
