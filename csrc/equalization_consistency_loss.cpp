// Glue of equalization_consistency_loss: tensors to pointers and sizes, and back. The contract is in
// pyeqgan/ops/equalization_consistency_loss.py, the maths in cpu/consistency_loss.
#include "cpu/consistency_loss/equalization_consistency_loss.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <string>
#include <vector>

#include "check.h"

namespace pyeqgan {
namespace {

constexpr char kName[] = "equalization_consistency_loss";
constexpr char kBackward[] = "equalization_consistency_loss_backward";

cpu::Distance distance_of(const char* op, const std::string& name) {
  if (name == "cosine") return cpu::Distance::kCosine;
  if (name == "l1") return cpu::Distance::kL1;
  PYEQGAN_CHECK(name == "l2", op, "distance", "cosine, l1 or l2", name);
  return cpu::Distance::kL2;
}

// The scales as the kernels want them. Their pointers point into the dense tensors.
struct Pyramid {
  std::vector<Tensor> equalized, decoded;
  std::vector<cpu::ConsistencyScale> scales;

  int64_t items() const {
    int64_t total = 0;
    for (const auto& s : scales) total += s.items();
    return total;
  }

  // Calls f(scale, first item of the scale among all, begin, end) on all threads, for all items of all scales.
  template <class F>
  void run(F f) const {
    torch::stable::parallel_for(0, items(), 1, [&](int64_t begin, int64_t end) {
      int64_t first = 0;
      for (const auto& s : scales) {
        const int64_t from = std::max(begin - first, int64_t{0}), to = std::min(end - first, s.items());
        if (from < to) f(s, first, from, to);
        first += s.items();
      }
    });
  }
};

Pyramid describe(const char* op, const std::vector<Tensor>& equalized, const std::vector<Tensor>& decoded,
                 const std::vector<double>& weights, cpu::Distance distance) {
  const size_t count = equalized.size();
  PYEQGAN_CHECK(count > 0, op, "equalized", "at least one scale", count);
  PYEQGAN_CHECK(decoded.size() == count, op, "decoded", std::to_string(count) + " scales", decoded.size());
  PYEQGAN_CHECK(weights.size() == count, op, "weights", std::to_string(count) + " numbers", weights.size());
  Pyramid p;
  for (size_t i = 0; i < count; ++i) {
    const Tensor &e = equalized[i], &d = decoded[i];
    PYEQGAN_CHECK(e.dim() == 4, op, "equalized", "shape (B, C, H, W)", shape_of(e));
    check_shape(op, "decoded", d, {e.size(0), e.size(1), e.size(2), e.size(3)});
    for (const auto& [name, value] : {std::pair("equalized", e), std::pair("decoded", d)}) {
      check_cpu(op, name, value);
      check_dtype(op, name, value, equalized[0].scalar_type());
    }
    p.equalized.push_back(dense(e));
    p.decoded.push_back(torch::stable::contiguous(d, memory_format_of(e)));
    cpu::ConsistencyScale s{};
    s.images = e.size(0), s.channels = e.size(1), s.pixels = e.size(2) * e.size(3);
    s.distance = distance;
    s.pixel_major = memory_format_of(e) == MemoryFormat::ChannelsLast;
    if (distance != cpu::Distance::kCosine) s.images = s.channels = 1, s.pixels = e.numel();
    s.equalized = p.equalized[i].const_data_ptr();
    s.decoded = p.decoded[i].const_data_ptr();
    p.scales.push_back(s);
  }
  return p;
}

// What one pixel's distance adds to the loss.
double share(const cpu::ConsistencyScale& s, double weight) {
  return weight / static_cast<double>(std::max<int64_t>(s.images * s.pixels, 1));
}

Tensor forward(const std::vector<Tensor> equalized, const std::vector<Tensor> decoded,
               const std::vector<double> weights, const std::string distance) {
  const Pyramid p = describe(kName, equalized, decoded, weights, distance_of(kName, distance));
  const auto& kernel = of_dtype(PYEQGAN_CHOOSE(cpu::pyeqgan_consistency), equalized[0].scalar_type(), kName);
  std::vector<double> sums(p.items());
  p.run([&](const cpu::ConsistencyScale& s, int64_t first, int64_t begin, int64_t end) {
    kernel.forward(s, sums.data() + first, begin, end);
  });
  double loss = 0;
  const double* sum = sums.data();
  for (size_t i = 0; i < p.scales.size(); ++i) {
    double scale = 0;
    for (int64_t item = 0; item < p.scales[i].items(); ++item) scale += *sum++;
    if (p.scales[i].items() > 0) loss += share(p.scales[i], weights[i]) * scale;
  }
  const Tensor result = torch::stable::new_empty(equalized[0], {}, accumulation_dtype(equalized[0].scalar_type()));
  if (result.scalar_type() == ScalarType::Double) {
    *static_cast<double*>(result.mutable_data_ptr()) = loss;
  } else {
    *static_cast<float*>(result.mutable_data_ptr()) = static_cast<float>(loss);
  }
  return result;
}

std::vector<Tensor> backward(const Tensor& grad_loss, const std::vector<Tensor> equalized,
                             const std::vector<Tensor> decoded, const std::vector<double> weights,
                             const std::string distance, const std::vector<bool> need_equalized,
                             const std::vector<bool> need_decoded) {
  Pyramid p = describe(kBackward, equalized, decoded, weights, distance_of(kBackward, distance));
  const size_t count = p.scales.size();
  const ScalarType dtype = equalized[0].scalar_type();
  check_cpu(kBackward, "grad_loss", grad_loss);
  check_shape(kBackward, "grad_loss", grad_loss, {});
  check_dtype(kBackward, "grad_loss", grad_loss, accumulation_dtype(dtype));
  for (const auto& [name, need] :
       {std::pair("need_equalized", &need_equalized), std::pair("need_decoded", &need_decoded)})
    PYEQGAN_CHECK(need->size() == count, kBackward, name, std::to_string(count) + " flags", need->size());
  const void* grad = grad_loss.const_data_ptr();
  const double factor =
      dtype == ScalarType::Double ? *static_cast<const double*>(grad) : *static_cast<const float*>(grad);

  std::vector<Tensor> grads(2 * count, torch::stable::new_empty(grad_loss, {0}));
  for (size_t i = 0; i < count; ++i) {
    cpu::ConsistencyScale& s = p.scales[i];
    s.grad = factor * share(s, weights[i]);
    if (need_equalized[i]) s.grad_equalized = (grads[i] = torch::stable::empty_like(p.equalized[i])).mutable_data_ptr();
    if (need_decoded[i])
      s.grad_decoded = (grads[count + i] = torch::stable::empty_like(p.decoded[i])).mutable_data_ptr();
  }
  const auto& kernel = of_dtype(PYEQGAN_CHOOSE(cpu::pyeqgan_consistency), dtype, kBackward);
  p.run([&](const cpu::ConsistencyScale& s, int64_t, int64_t begin, int64_t end) { kernel.backward(s, begin, end); });
  // The kernels wrote both in the layout of `equalized`.
  for (size_t i = 0; i < count; ++i)
    if (need_decoded[i]) grads[count + i] = torch::stable::contiguous(grads[count + i], memory_format_of(decoded[i]));
  return grads;
}

}  // namespace
}  // namespace pyeqgan

STABLE_TORCH_LIBRARY_IMPL(pyeqgan, CPU, m) {
  m.impl("equalization_consistency_loss", TORCH_BOX(&pyeqgan::forward));
  m.impl("equalization_consistency_loss_backward", TORCH_BOX(&pyeqgan::backward));
}
