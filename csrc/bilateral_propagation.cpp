// Glue of bilateral_propagation: tensors to pointers, sizes and strides, and back. The contract is in
// pyeqgan/ops/bilateral_propagation.py, the maths in cpu/bilateral_propagation.
#include "bilateral_propagation.h"

#include <tuple>

namespace pyeqgan {
namespace {

constexpr char kName[] = "bilateral_propagation";
constexpr char kBackward[] = "bilateral_propagation_backward";

std::optional<Tensor> dense_gate(const std::optional<Tensor>& gate) {
  return gate.has_value() ? std::optional<Tensor>(torch::stable::contiguous(*gate)) : std::nullopt;
}

std::tuple<Tensor, Tensor> forward(const Tensor& x_, const std::optional<Tensor>& gate_, double sigma, int64_t radius) {
  const Tensor x = dense(x_);
  const std::optional<Tensor> gate = dense_gate(gate_);
  BilateralPropagation propagation(kName, x, gate, sigma, radius);
  const Tensor y = empty_image(x_, 2 * x.size(1), x.size(2), x.size(3)), affinity = propagation.affinity();
  propagation.forward(y, affinity);
  return {y, affinity};
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_y, const Tensor& x_, const std::optional<Tensor>& gate_,
                                    const Tensor& affinity, double sigma, int64_t radius, bool need_x, bool need_gate) {
  const Tensor x = dense(x_);
  const std::optional<Tensor> gate = dense_gate(gate_);
  BilateralPropagation propagation(kBackward, x, gate, sigma, radius);
  const Tensor none = torch::stable::new_empty(x, {0});
  const Tensor grad_x = need_x ? empty_image(x, x.size(1), x.size(2), x.size(3)) : none;
  const std::optional<Tensor> grad_gate =
      propagation.backward(dense(grad_y), torch::stable::contiguous(affinity), need_x ? &grad_x : nullptr, need_gate);
  return {grad_x, need_gate ? torch::stable::to(*grad_gate, x.scalar_type()) : none};
}

}  // namespace
}  // namespace pyeqgan

STABLE_TORCH_LIBRARY_IMPL(pyeqgan, CPU, m) {
  m.impl("bilateral_propagation", TORCH_BOX(&pyeqgan::forward));
  m.impl("bilateral_propagation_backward", TORCH_BOX(&pyeqgan::backward));
}
