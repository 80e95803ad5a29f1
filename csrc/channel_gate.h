// How the glue runs the channel gate of equalization_fusion.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "check.h"
#include "cpu/fusion/channel_gate.h"

namespace pyeqgan {

// The gate's numbers in the accumulation dtype, and the call of its kernel.
class ChannelGate {
 public:
  ChannelGate(const Tensor& pooled, int64_t pixels, const Tensor& reduce_weight,
              const std::optional<Tensor>& reduce_bias, const Tensor& expand_weight,
              const std::optional<Tensor>& expand_bias)
      : dtype_(pooled.scalar_type()),
        pixels_(pixels),
        pooled_(pooled),
        reduce_weight_(wide(reduce_weight)),
        expand_weight_(wide(expand_weight)) {
    if (reduce_bias.has_value()) reduce_bias_ = wide(*reduce_bias);
    if (expand_bias.has_value()) expand_bias_ = wide(*expand_bias);
  }

  // (B,C) in the accumulation dtype.
  Tensor forward() {
    gate_ = torch::stable::empty_like(pooled_);
    call([](const auto& gate) { gate.forward(); });
    return *gate_;
  }

  // The gradients of pooled and of the four parameters.
  std::array<Tensor, 5> backward(const Tensor& gate, const Tensor& grad_gate) {
    gate_ = wide(gate), grad_gate_ = wide(grad_gate);
    const int64_t channels = expand_weight_.size(0), squeezed = expand_weight_.size(1);
    grads_ = {torch::stable::empty_like(pooled_), zeros({squeezed, channels, 1, 1}), zeros({squeezed}),
              zeros({channels, squeezed, 1, 1}), zeros({channels})};
    call([](const auto& gate) { gate.backward(); });
    return {grads_[0], grads_[1], grads_[2], grads_[3], grads_[4]};
  }

 private:
  Tensor wide(const Tensor& x) const { return torch::stable::contiguous(torch::stable::to(x, dtype_)); }
  Tensor zeros(torch::headeronly::IntHeaderOnlyArrayRef sizes) const {
    return torch::stable::new_zeros(pooled_, sizes);
  }

  template <class F>
  void call(const F& f) const {
    dtype_ == ScalarType::Double ? f(describe<double>()) : f(describe<float>());
  }

  template <class A>
  cpu::ChannelGate<A> describe() const {
    const auto data = [](const std::optional<Tensor>& x) {
      return x.has_value() ? static_cast<A*>(x->mutable_data_ptr()) : nullptr;
    };
    const auto grad = [&](size_t i) { return i < grads_.size() ? data(grads_[i]) : nullptr; };
    cpu::ChannelGate<A> g{};
    g.batch = pooled_.size(0), g.pixels = pixels_, g.channels = expand_weight_.size(0),
    g.squeezed = expand_weight_.size(1);
    g.pooled = data(pooled_), g.reduce_weight = data(reduce_weight_), g.reduce_bias = data(reduce_bias_);
    g.expand_weight = data(expand_weight_), g.expand_bias = data(expand_bias_);
    g.gate = data(gate_), g.grad_gate = data(grad_gate_);
    g.grad_pooled = grad(0), g.grad_reduce_weight = grad(1), g.grad_reduce_bias = grad(2);
    g.grad_expand_weight = grad(3), g.grad_expand_bias = grad(4);
    return g;
  }

  ScalarType dtype_;
  int64_t pixels_;
  Tensor pooled_, reduce_weight_, expand_weight_;
  std::optional<Tensor> reduce_bias_, expand_bias_, gate_, grad_gate_;
  std::vector<Tensor> grads_;
};

}  // namespace pyeqgan
