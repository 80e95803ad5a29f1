// bilateral_propagation on the CPU: y = cat[A_H v A_Wᵀ, Σ_j a_ij v_j], v = gate·x, and its gradient.
#include "bilateral_propagation.h"
#include "range.h"
#include "range_backward.h"
#include "spatial.h"

namespace {

template <class T>
constexpr pyeqgan::cpu::BilateralPropagationKernels::Typed kernels() {
  return {spatial_items<T, false>, range_items<T, false>, range_items<T, true>, spatial_items<T, true>,
          range_backward_items<T>};
}

}  // namespace

namespace pyeqgan::cpu {

const BilateralPropagationKernels PYEQGAN_TABLE(pyeqgan_bilateral_propagation) = {
    kernels<float>(), kernels<double>(), kernels<c10::BFloat16>(), kernels<c10::Half>()};

}  // namespace pyeqgan::cpu
