// How the glue runs the kernels of bilateral_propagation.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <optional>

#include "check.h"
#include "cpu/bilateral_propagation/bilateral_propagation.h"

namespace pyeqgan {

// A problem under construction: a dense x and its gate, contiguous.
class BilateralPropagation {
 public:
  BilateralPropagation(const char* op, const Tensor& x, const std::optional<Tensor>& gate, double sigma, int64_t radius)
      : op_(op), x_(x), kernels_(of_dtype(PYEQGAN_CHOOSE(cpu::pyeqgan_bilateral_propagation), x.scalar_type(), op)) {
    PYEQGAN_CHECK(x.dim() == 4, op, "x", "shape (B, C, H, W)", shape_of(x));
    check_cpu(op, "x", x);
    PYEQGAN_CHECK(sigma > 0, op, "sigma", "a number > 0", sigma);
    PYEQGAN_CHECK(radius >= 0, op, "radius", "an integer >= 0", radius);
    cpu::BilateralPropagation& p = problem;
    p.batch = x.size(0), p.channels = x.size(1), p.height = x.size(2), p.width = x.size(3);
    p.sigma = sigma;
    // No tap further than the map is wide meets an element of it.
    p.radius = std::min(radius, std::max(p.height, p.width));
    p.x = x.const_data_ptr();
    p.x_strides = strides_of(x);
    if (gate.has_value()) {
      check_cpu(op, "gate", *gate);
      check_shape(op, "gate", *gate, {p.batch, p.channels});
      check_dtype(op, "gate", *gate, x.scalar_type());
      p.gate = gate->const_data_ptr();
    }
  }

  cpu::BilateralPropagation problem{};

  // Room for the affinity of so many images.
  Tensor affinity() const {
    const cpu::BilateralPropagation& p = problem;
    return torch::stable::new_empty(x_, {p.batch, 9, p.height, p.width}, accumulation_dtype(x_.scalar_type()));
  }

  // Into y (B,2C,H,W), dense, and affinity; or, where that is `known`, from it.
  void forward(const Tensor& y, const Tensor& affinity, bool known = false) {
    cpu::BilateralPropagation& p = problem;
    p.y = y.mutable_data_ptr(), p.y_strides = strides_of(y);
    p.affinity = const_cast<void*>(affinity.const_data_ptr());
    if (p.height == 0 || p.width == 0) return;
    run(kernels_.spatial, p.batch * p.channel_blocks());
    run(known ? kernels_.blend : kernels_.range, p.batch * p.bands());
  }

  // The gradient of a dense y into grad_x, dense as x is, if given; returns that of the gate, (B,C) in the accumulation
  // dtype, if asked for.
  std::optional<Tensor> backward(const Tensor& grad_y, const Tensor& affinity, const Tensor* grad_x, bool need_gate) {
    cpu::BilateralPropagation& p = problem;
    const ScalarType dtype = x_.scalar_type(), accumulation = accumulation_dtype(dtype);
    for (const auto& [name, value, channels, expected] : {std::tuple("grad_y", grad_y, 2 * p.channels, dtype),
                                                          std::tuple("affinity", affinity, int64_t{9}, accumulation)}) {
      check_cpu(op_, name, value);
      check_shape(op_, name, value, {p.batch, channels, p.height, p.width});
      check_dtype(op_, name, value, expected);
    }
    p.grad_y = grad_y.const_data_ptr(), p.grad_y_strides = strides_of(grad_y);
    p.affinity = const_cast<void*>(affinity.const_data_ptr());
    // The gradient of v is summed in the accumulation dtype: in grad_x itself where that is its dtype.
    const Tensor grad_v = grad_x != nullptr && dtype == accumulation
                              ? *grad_x
                              : torch::stable::empty({p.batch, p.channels, p.height, p.width}, accumulation,
                                                     std::nullopt, x_.device(), std::nullopt, memory_format_of(x_));
    const bool none = p.height == 0 || p.width == 0;
    const Tensor shares =
        torch::stable::new_empty(x_, {p.batch, none ? 0 : p.bands(), need_gate ? p.channels : 0}, accumulation);
    p.grad_x = grad_x == nullptr ? nullptr : grad_x->mutable_data_ptr();
    p.grad_v = grad_v.mutable_data_ptr();
    p.grad_gates = need_gate ? shares.mutable_data_ptr() : nullptr;
    if (!none) {
      run(kernels_.spatial_backward, p.batch * p.channel_blocks());
      run(kernels_.range_backward, p.batch * p.bands());
    }
    if (!need_gate) return std::nullopt;
    return torch::stable::sum(shares, std::array<int64_t, 1>{1});
  }

 private:
  void run(cpu::BilateralPropagationKernels::Run kernel, int64_t items) const {
    torch::stable::parallel_for(0, items, 1, [&](int64_t begin, int64_t end) { kernel(problem, begin, end); });
  }

  const char* op_;
  Tensor x_;
  const cpu::BilateralPropagationKernels::Typed& kernels_;
};

}  // namespace pyeqgan
