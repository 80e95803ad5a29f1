// The storage types the GPU kernels know, as the numbers that cross the C boundary.
#pragma once

namespace pyeqgan {

enum DType : int { FLOAT32 = 0, FLOAT16 = 1, BFLOAT16 = 2 };

}  // namespace pyeqgan
