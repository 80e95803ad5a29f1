// Glue of equalization_consistency_loss on the GPU.
#include "consistency_loss.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <string>
#include <vector>

#include "glue.h"

namespace pyeqgan {
namespace {

constexpr char kName[] = "equalization_consistency_loss (CUDA)";
constexpr char kBackward[] = "equalization_consistency_loss_backward (CUDA)";

int distance_of(const char* op, const std::string& name) {
  if (name == "cosine") return PYEQGAN_COSINE;
  if (name == "l1") return PYEQGAN_L1;
  PYEQGAN_CHECK(name == "l2", op, "distance", "cosine, l1 or l2", name);
  return PYEQGAN_L2;
}

// The scales as the kernels want them. Their pointers point into the dense tensors.
struct Pyramid {
  std::vector<Tensor> equalized, decoded;
  std::vector<pyeqgan_consistency_scale> scales;
  int distance, dtype;
};

Pyramid describe(const char* op, const std::vector<Tensor>& equalized, const std::vector<Tensor>& decoded,
                 const std::vector<double>& weights, const std::string& distance) {
  const size_t count = equalized.size();
  PYEQGAN_CHECK(count > 0, op, "equalized", "at least one scale", count);
  PYEQGAN_CHECK(decoded.size() == count, op, "decoded", std::to_string(count) + " scales", decoded.size());
  PYEQGAN_CHECK(weights.size() == count, op, "weights", std::to_string(count) + " numbers", weights.size());
  check_cuda(op, "equalized", equalized[0]);
  Pyramid p{{}, {}, {}, distance_of(op, distance), dtype_of(op, "equalized", equalized[0])};
  for (size_t i = 0; i < count; ++i) {
    const Tensor &e = equalized[i], &d = decoded[i];
    PYEQGAN_CHECK(e.dim() == 4, op, "equalized", "shape (B, C, H, W)", shape_of(e));
    check_shape(op, "decoded", d, {e.size(0), e.size(1), e.size(2), e.size(3)});
    for (const auto& [name, value] : {std::pair("equalized", e), std::pair("decoded", d)}) {
      check_device(op, name, value, equalized[0]);
      check_dtype(op, name, value, equalized[0].scalar_type());
    }
    p.equalized.push_back(dense(e));
    p.decoded.push_back(torch::stable::contiguous(d, memory_format_of(e)));
    pyeqgan_consistency_scale s{};
    s.images = e.size(0), s.channels = e.size(1), s.pixels = e.size(2) * e.size(3);
    s.pixel_major = memory_format_of(e) == MemoryFormat::ChannelsLast;
    s.equalized = p.equalized[i].const_data_ptr();
    s.decoded = p.decoded[i].const_data_ptr();
    const int64_t distances = p.distance == PYEQGAN_COSINE ? s.images * s.pixels : e.numel();
    s.share = static_cast<float>(weights[i] / static_cast<double>(std::max<int64_t>(distances, 1)));
    p.scales.push_back(s);
  }
  return p;
}

Tensor forward(const std::vector<Tensor> equalized, const std::vector<Tensor> decoded,
               const std::vector<double> weights, const std::string distance) {
  const Pyramid p = describe(kName, equalized, decoded, weights, distance);
  const int32_t device = equalized[0].get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const Tensor loss = torch::stable::new_empty(equalized[0], {}, ScalarType::Float);
  const int64_t bytes = pyeqgan_consistency_loss_workspace(p.scales.data(), p.scales.size(), p.distance);
  const Tensor workspace = torch::stable::new_empty(equalized[0], {bytes}, ScalarType::Byte);
  check_launch(kName, pyeqgan_consistency_loss(p.scales.data(), p.scales.size(), p.distance, p.dtype,
                                               static_cast<float*>(loss.mutable_data_ptr()),
                                               workspace.mutable_data_ptr(), current_stream(device)));
  return loss;
}

std::vector<Tensor> backward(const Tensor& grad_loss, const std::vector<Tensor> equalized,
                             const std::vector<Tensor> decoded, const std::vector<double> weights,
                             const std::string distance, const std::vector<bool> need_equalized,
                             const std::vector<bool> need_decoded) {
  Pyramid p = describe(kBackward, equalized, decoded, weights, distance);
  const size_t count = p.scales.size();
  check_shape(kBackward, "grad_loss", grad_loss, {});
  check_dtype(kBackward, "grad_loss", grad_loss, ScalarType::Float);
  check_device(kBackward, "grad_loss", grad_loss, equalized[0]);
  for (const auto& [name, need] :
       {std::pair("need_equalized", &need_equalized), std::pair("need_decoded", &need_decoded)})
    PYEQGAN_CHECK(need->size() == count, kBackward, name, std::to_string(count) + " flags", need->size());
  const int32_t device = equalized[0].get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  std::vector<Tensor> grads(2 * count, torch::stable::new_empty(grad_loss, {0}));
  for (size_t i = 0; i < count; ++i) {
    pyeqgan_consistency_scale& s = p.scales[i];
    if (need_equalized[i]) s.grad_equalized = (grads[i] = torch::stable::empty_like(p.equalized[i])).mutable_data_ptr();
    if (need_decoded[i])
      s.grad_decoded = (grads[count + i] = torch::stable::empty_like(p.decoded[i])).mutable_data_ptr();
  }
  check_launch(kBackward, pyeqgan_consistency_loss_backward(p.scales.data(), count, p.distance, p.dtype,
                                                            static_cast<const float*>(grad_loss.const_data_ptr()),
                                                            current_stream(device)));
  // The kernels wrote both in the layout of `equalized`.
  for (size_t i = 0; i < count; ++i)
    if (need_decoded[i]) grads[count + i] = torch::stable::contiguous(grads[count + i], memory_format_of(decoded[i]));
  return grads;
}

}  // namespace
}  // namespace pyeqgan

STABLE_TORCH_LIBRARY_FRAGMENT(pyeqgan_cuda, m) {
  m.def("equalization_consistency_loss(Tensor[] equalized, Tensor[] decoded, float[] weights, str distance) -> Tensor");
  m.def(
      "equalization_consistency_loss_backward(Tensor grad_loss, Tensor[] equalized, Tensor[] decoded, float[] weights, "
      "str distance, bool[] need_equalized, bool[] need_decoded) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(pyeqgan_cuda, CUDA, m) {
  m.impl("equalization_consistency_loss", TORCH_BOX(&pyeqgan::forward));
  m.impl("equalization_consistency_loss_backward", TORCH_BOX(&pyeqgan::backward));
}
