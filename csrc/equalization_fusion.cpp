// Glue of equalization_fusion: its products, norms, gate and propagation, one after the other, the propagated features
// for a few images at a time. The contract is in pyeqgan/ops/equalization_fusion.py; the maths in cpu/convolution
// (pointwise, normalization), cpu/fusion/channel_gate.cpp and cpu/bilateral_propagation.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "bilateral_propagation.h"
#include "channel_gate.h"
#include "normalization.h"
#include "pointwise.h"

namespace pyeqgan {
namespace {

constexpr char kName[] = "equalization_fusion";
constexpr char kBackward[] = "equalization_fusion_backward";
const std::optional<std::string> kActivation = "leaky_relu";

using Optional = std::optional<Tensor>;
using Name = std::optional<std::string>;

// Pixels whose propagated features exist at a time: enough work for several threads, few enough to stay in their
// caches.
constexpr int64_t kPixels = 4096;

Tensor images(Tensor x, int64_t first, int64_t count) { return torch::stable::narrow(x, 0, first, count); }

// Images in a run.
int64_t run_length(const Tensor& x) {
  return std::max<int64_t>(kPixels / std::max<int64_t>(x.size(2) * x.size(3), 1), 1);
}

// Calls f(first image, count) for runs of images.
template <class F>
void for_images(const Tensor& x, const F& f) {
  const int64_t each = run_length(x);
  for (int64_t first = 0; first < x.size(0); first += each) f(first, std::min(each, x.size(0) - first));
}

// Room for what exists of a few images at a time: X and its propagated features.
class Features {
 public:
  explicit Features(const Tensor& like) : x_(room(like, 1)), propagated_(room(like, 2)) {}

  Tensor x(int64_t count) const { return images(x_, 0, count); }
  Tensor propagated(int64_t count) const { return images(propagated_, 0, count); }

 private:
  static Tensor room(const Tensor& like, int64_t times) {
    return empty_image(images(like, 0, std::min(run_length(like), like.size(0))), times * like.size(1), like.size(2),
                       like.size(3));
  }

  Tensor x_, propagated_;
};

void check_weight(const char* op, const char* name, const Tensor& weight, const Tensor& x, int64_t rows,
                  int64_t columns) {
  check_cpu(op, name, weight);
  check_dtype(op, name, weight, x.scalar_type());
  check_shape(op, name, weight, {rows, columns, 1, 1});
}

// The maps that are fused, dense, with the checks of all weights.
std::vector<Tensor> maps_of(const char* op, const Tensor& structure, const Tensor& texture, const Optional& detail,
                            const Tensor& fuse_weight, const Tensor& reduce, const Tensor& expand, const Tensor& out) {
  PYEQGAN_CHECK(structure.dim() == 4, op, "structure", "shape (B, C, H, W)", shape_of(structure));
  PYEQGAN_CHECK(fuse_weight.dim() == 4 && reduce.dim() == 4 && out.dim() == 4, op, "weights", "shape (Co, C, 1, 1)",
                "another rank");
  std::vector<Tensor> maps{dense(structure)};
  int64_t channels = structure.size(1);
  const Optional others[] = {texture, detail};
  for (const Optional& map : others) {
    if (!map.has_value()) continue;
    PYEQGAN_CHECK(map->dim() == 4, op, "texture, detail", "shape (B, C, H, W)", shape_of(*map));
    check_cpu(op, "texture, detail", *map);
    check_dtype(op, "texture, detail", *map, structure.scalar_type());
    check_shape(op, "texture, detail", *map, {structure.size(0), map->size(1), structure.size(2), structure.size(3)});
    channels += map->size(1);
    maps.push_back(dense(*map));
  }
  const int64_t fused = fuse_weight.size(0), squeezed = reduce.size(0);
  check_cpu(op, "structure", structure);
  check_weight(op, "fuse_weight", fuse_weight, structure, fused, channels);
  check_weight(op, "gate_reduce_weight", reduce, structure, squeezed, fused);
  check_weight(op, "gate_expand_weight", expand, structure, fused, squeezed);
  check_weight(op, "out_weight", out, structure, out.size(0), 2 * fused);
  return maps;
}

// One of the two norms with its activation: what it needs to be run in either direction.
struct Norm {
  const char* op;
  const Name& name;
  const Optional &weight, &bias;
  double eps, negative_slope;

  Normalization on(const Tensor& image) const {
    return Normalization(op, image, name, weight, bias, eps, kActivation, negative_slope);
  }
};

struct Statistics {
  Tensor mean, var;
};

// Runs a product into `result` for all its images by f(moments), which gets room for the moments of its blocks or
// nothing, and returns the statistics that the norm after it uses.
template <class F>
Statistics with_statistics(const Norm& norm, const Tensor& result, bool training, const Optional& running_mean,
                           const Optional& running_var, const F& f) {
  Normalization normalization = norm.on(result);
  cpu::Normalization& n = normalization.problem;
  const bool own = n.norm && (n.per_image || training);
  PYEQGAN_CHECK(!n.norm || own || (running_mean.has_value() && running_var.has_value()), norm.op,
                "running_mean, running_var", "tensors when a batch norm is not training", "None");
  Statistics found{normalization.statistic(norm.op, own ? std::nullopt : running_mean),
                   normalization.statistic(norm.op, own ? std::nullopt : running_var)};
  const int64_t blocks = divide_up(n.pixels, cpu::Pointwise::kBlock);
  const Optional moments = own ? Optional(normalization.per_channel({n.batch, blocks, 2})) : std::nullopt;
  f(moments);
  n.mean = found.mean.mutable_data_ptr(), n.var = found.var.mutable_data_ptr();
  if (own) normalization.statistics(*moments, cpu::Pointwise::kBlock);
  return found;
}

// The statistics of some images.
Statistics of_images(const Statistics& all, const Norm& norm, int64_t first, int64_t count) {
  if (norm.name != "instance") return all;
  return {images(all.mean, first, count), images(all.var, first, count)};
}

// act(norm(x)) into y, or if there is none the sums of its pixels (B,chunks,C).
Tensor activate(const Norm& norm, const Tensor& x, const Statistics& statistics, const Tensor* y) {
  Normalization normalization = norm.on(x);
  cpu::Normalization& n = normalization.problem;
  n.mean = statistics.mean.mutable_data_ptr(), n.var = statistics.var.mutable_data_ptr();
  n.x = x.const_data_ptr(), n.y = y == nullptr ? nullptr : y->mutable_data_ptr();
  const Tensor pooled = normalization.per_channel({y == nullptr ? n.batch : 0, n.chunks});
  n.pooled = y == nullptr ? pooled.mutable_data_ptr() : nullptr;
  normalization.forward();
  return pooled;
}

struct NormGradients {
  Tensor weight, bias;
};

// The gradients of act(norm(x)), that of x into grad_x, which may be grad_y; `shift` (B,C) is added to grad_y at every
// pixel.
NormGradients differentiate(const Norm& norm, const Tensor& x, const Statistics& statistics, bool training,
                            const Tensor& grad_y, const Tensor* shift, const Tensor& grad_x) {
  Normalization normalization = norm.on(x);
  cpu::Normalization& n = normalization.problem;
  const NormGradients found{normalization.per_channel({}), normalization.per_channel({})};
  n.mean = statistics.mean.mutable_data_ptr(), n.var = statistics.var.mutable_data_ptr();
  n.constant_statistics = !n.per_image && !training;
  n.x = x.const_data_ptr(), n.grad_y = grad_y.const_data_ptr(), n.grad_x = grad_x.mutable_data_ptr();
  n.grad_shift = shift == nullptr ? nullptr : shift->const_data_ptr();
  normalization.backward(&found.weight, &found.bias);
  return found;
}

using Results = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Results forward(const Tensor& structure, const Tensor& texture, const Optional& detail, const Tensor& fuse_weight,
                const Optional& fuse_bias, const Tensor& reduce_weight, const Optional& reduce_bias,
                const Tensor& expand_weight, const Optional& expand_bias, const Tensor& out_weight,
                const Optional& fuse_norm_weight, const Optional& fuse_norm_bias, const Optional& out_norm_weight,
                const Optional& out_norm_bias, const Optional& fuse_running_mean, const Optional& fuse_running_var,
                const Optional& out_running_mean, const Optional& out_running_var, const Name& norm, bool training,
                double eps, double sigma, int64_t radius, double negative_slope) {
  const std::vector<Tensor> maps =
      maps_of(kName, structure, texture, detail, fuse_weight, reduce_weight, expand_weight, out_weight);
  const int64_t height = structure.size(2), width = structure.size(3), channels = fuse_weight.size(0);
  const Norm fuse_norm{kName, norm, fuse_norm_weight, fuse_norm_bias, eps, negative_slope};
  const Norm out_norm{kName, norm, out_norm_weight, out_norm_bias, eps, negative_slope};

  const Tensor fused = empty_image(structure, channels, height, width);
  const Optional bias = fuse_bias.has_value() ? Optional(torch::stable::contiguous(*fuse_bias)) : std::nullopt;
  if (bias.has_value()) {
    check_cpu(kName, "fuse_bias", *bias);
    check_shape(kName, "fuse_bias", *bias, {channels});
    check_dtype(kName, "fuse_bias", *bias, structure.scalar_type());
  }
  const Statistics fuse_statistics =
      with_statistics(fuse_norm, fused, training, fuse_running_mean, fuse_running_var, [&](const Optional& moments) {
        Pointwise product(kName, fused, fuse_weight);
        for (const Tensor& map : maps) product.add_source(map);
        product.problem.bias = bias.has_value() ? bias->const_data_ptr() : nullptr;
        product.problem.statistics = moments.has_value() ? moments->mutable_data_ptr() : nullptr;
        product.problem.output = Pointwise::describe(fused);
        product.output(product.pack_for_output());
      });

  const Tensor pooled =
      torch::stable::sum(activate(fuse_norm, fused, fuse_statistics, nullptr), std::array<int64_t, 1>{1});
  const Tensor gate = torch::stable::to(
      ChannelGate(pooled, height * width, reduce_weight, reduce_bias, expand_weight, expand_bias).forward(),
      structure.scalar_type());

  const Tensor mixed = empty_image(structure, out_weight.size(0), height, width);
  const Tensor affinity = BilateralPropagation(kName, fused, gate, sigma, radius).affinity();
  const Statistics out_statistics =
      with_statistics(out_norm, mixed, training, out_running_mean, out_running_var, [&](const Optional& moments) {
        std::optional<Pointwise::Packed> packed;
        Features features(fused);
        for_images(fused, [&](int64_t first, int64_t count) {
          const auto some = [&](const Tensor& all) { return images(all, first, count); };
          const Tensor x = features.x(count), propagated = features.propagated(count);
          const Tensor result = some(mixed);
          activate(fuse_norm, some(fused), of_images(fuse_statistics, fuse_norm, first, count), &x);
          BilateralPropagation(kName, x, some(gate), sigma, radius).forward(propagated, some(affinity));
          Pointwise product(kName, result, out_weight);
          product.add_source(propagated);
          product.problem.statistics = moments.has_value() ? some(*moments).mutable_data_ptr() : nullptr;
          product.problem.output = Pointwise::describe(result);
          if (!packed.has_value()) packed = product.pack_for_output();
          product.output(*packed);
        });
      });
  const Tensor y = torch::stable::empty_like(mixed);
  activate(out_norm, mixed, out_statistics, &y);
  return {y,        fused, fuse_statistics.mean, fuse_statistics.var, pooled, gate,
          affinity, mixed, out_statistics.mean,  out_statistics.var};
}

std::vector<Tensor> backward(const Tensor& grad_y_, const Tensor& structure, const Tensor& texture,
                             const Optional& detail, const Tensor& fuse_weight, const Optional& fuse_bias,
                             const Tensor& reduce_weight, const Optional& reduce_bias, const Tensor& expand_weight,
                             const Optional& expand_bias, const Tensor& out_weight, const Optional& fuse_norm_weight,
                             const Optional& fuse_norm_bias, const Optional& out_norm_weight,
                             const Optional& out_norm_bias, const Tensor& fused_, const Tensor& fuse_mean,
                             const Tensor& fuse_var, const Tensor& pooled, const Tensor& gate_, const Tensor& affinity_,
                             const Tensor& mixed_, const Tensor& out_mean, const Tensor& out_var, const Name& norm,
                             bool training, double eps, double sigma, int64_t radius, double negative_slope,
                             const std::vector<bool> needs) {
  const std::vector<Tensor> maps =
      maps_of(kBackward, structure, texture, detail, fuse_weight, reduce_weight, expand_weight, out_weight);
  const Tensor fused = dense(fused_), mixed = dense(mixed_), gate = torch::stable::contiguous(gate_);
  const Tensor affinity = torch::stable::contiguous(affinity_);
  const Tensor grad_y = torch::stable::contiguous(grad_y_, memory_format_of(mixed));
  const int64_t batch = structure.size(0), height = structure.size(2), width = structure.size(3);
  const int64_t channels = fuse_weight.size(0), outputs = out_weight.size(0);
  PYEQGAN_CHECK(needs.size() == 14, kBackward, "needs", "14 flags", needs.size());
  for (const auto& [name, value, count] : {std::tuple("fused", fused, channels), std::tuple("mixed", mixed, outputs),
                                           std::tuple("grad_y", grad_y, outputs)}) {
    check_cpu(kBackward, name, value);
    check_dtype(kBackward, name, value, structure.scalar_type());
    check_shape(kBackward, name, value, {batch, count, height, width});
  }
  const auto statistics = [&](const Tensor& mean, const Tensor& var, int64_t count) {
    for (const Tensor& value : {mean, var}) {
      check_cpu(kBackward, "statistics", value);
      check_dtype(kBackward, "statistics", value, accumulation_dtype(structure.scalar_type()));
      if (!norm.has_value()) continue;
      *norm == "instance" ? check_shape(kBackward, "statistics", value, {batch, count})
                          : check_shape(kBackward, "statistics", value, {count});
    }
    return Statistics{torch::stable::contiguous(mean), torch::stable::contiguous(var)};
  };
  const Statistics fuse_statistics = statistics(fuse_mean, fuse_var, channels);
  const Statistics out_statistics = statistics(out_mean, out_var, outputs);
  check_shape(kBackward, "pooled", pooled, {batch, channels});
  check_dtype(kBackward, "pooled", pooled, accumulation_dtype(structure.scalar_type()));
  const Norm fuse_norm{kBackward, norm, fuse_norm_weight, fuse_norm_bias, eps, negative_slope};
  const Norm out_norm{kBackward, norm, out_norm_weight, out_norm_bias, eps, negative_slope};

  const auto any = [&](size_t first, size_t last) {
    return std::any_of(needs.begin() + first, needs.begin() + last, [](bool need) { return need; });
  };
  enum { kMaps = 0, kFuse = 3, kFuseBias, kGate, kOut = 9, kFuseNorm, kOutNorm = 12, kAll = 14 };
  const bool need_fused = any(kMaps, kGate) || any(kFuseNorm, kOutNorm), need_gate = any(kGate, kOut) || need_fused;
  std::vector<Tensor> grads;
  for (int i = 0; i < kAll; ++i) grads.push_back(nothing(structure));
  const auto keep = [&](size_t i, const Tensor& grad, const Optional& like) {
    if (needs[i] && like.has_value()) grads[i] = torch::stable::to(grad, like->scalar_type());
  };

  const Tensor grad_mixed = torch::stable::empty_like(mixed);
  const NormGradients out = differentiate(out_norm, mixed, out_statistics, training, grad_y, nullptr, grad_mixed);
  keep(kOutNorm, out.weight, out_norm_weight);
  keep(kOutNorm + 1, out.bias, out_norm_bias);
  if (!need_gate && !needs[kOut]) return grads;

  const Tensor grad_fused = torch::stable::empty_like(fused);
  const Tensor grad_gate = torch::stable::new_empty(fused, {batch, channels}, pooled.scalar_type());
  std::optional<Pointwise::Packed> packed;
  Optional parts;
  Features features(fused);
  for_images(fused, [&](int64_t first, int64_t count) {
    const auto some = [&](const Tensor& all) { return images(all, first, count); };
    const Tensor x = features.x(count), propagated = features.propagated(count), some_grad_mixed = some(grad_mixed);
    activate(fuse_norm, some(fused), of_images(fuse_statistics, fuse_norm, first, count), &x);
    BilateralPropagation propagation(kBackward, x, some(gate), sigma, radius);
    if (needs[kOut]) propagation.forward(propagated, some(affinity), true);
    Pointwise product(kBackward, some_grad_mixed, out_weight);
    product.add_source(propagated);
    product.problem.output = Pointwise::describe(some_grad_mixed);
    if (needs[kOut]) {
      if (!parts.has_value()) parts = product.weight_parts();
      product.weight_gradient(*parts);
      if (first + count == batch) grads[kOut] = product.weight_sum(*parts);
    }
    if (!need_gate) return;
    if (!packed.has_value()) packed = product.pack_for_gradient();
    // What was propagated is not needed any more.
    product.input_gradient(*packed, 0, propagated);
    const Tensor grad_x = some(grad_fused);
    Tensor some_grad_gate = some(grad_gate);
    torch::stable::copy_(some_grad_gate,
                         *propagation.backward(propagated, some(affinity), need_fused ? &grad_x : nullptr, true));
  });
  if (needs[kOut] && batch == 0) grads[kOut] = torch::stable::new_zeros(out_weight, {outputs, 2 * channels, 1, 1});
  if (!need_gate) return grads;

  const std::array<Tensor, 5> of_gate = ChannelGate(torch::stable::contiguous(pooled), height * width, reduce_weight,
                                                    reduce_bias, expand_weight, expand_bias)
                                            .backward(gate, grad_gate);
  keep(kGate, of_gate[1], reduce_weight);
  keep(kGate + 1, of_gate[2], reduce_bias);
  keep(kGate + 2, of_gate[3], expand_weight);
  keep(kGate + 3, of_gate[4], expand_bias);
  if (!need_fused) return grads;

  const NormGradients fuse =
      differentiate(fuse_norm, fused, fuse_statistics, training, grad_fused, &of_gate[0], grad_fused);
  keep(kFuseNorm, fuse.weight, fuse_norm_weight);
  keep(kFuseNorm + 1, fuse.bias, fuse_norm_bias);
  Pointwise product(kBackward, grad_fused, fuse_weight);
  for (const Tensor& map : maps) product.add_source(map);
  product.problem.output = Pointwise::describe(grad_fused);
  if (needs[kFuse]) {
    Tensor weight_parts = product.weight_parts();
    product.weight_gradient(weight_parts);
    grads[kFuse] = product.weight_sum(weight_parts);
  }
  if (needs[kFuseBias] && fuse_bias.has_value()) {
    // A norm by the maps' own statistics takes any bias away.
    const bool own = norm.has_value() && (training || *norm == "instance");
    grads[kFuseBias] = own ? torch::stable::new_zeros(fuse_weight, {channels})
                           : torch::stable::sum(grad_fused, std::array<int64_t, 3>{0, 2, 3});
  }
  if (!any(kMaps, kFuse)) return grads;
  const Pointwise::Packed transposed = product.pack_for_gradient();
  for (size_t i = 0; i < maps.size(); ++i) {
    if (!needs[i]) continue;
    grads[i] = torch::stable::empty_like(maps[i]);
    product.input_gradient(transposed, static_cast<int64_t>(i), grads[i]);
  }
  return grads;
}

}  // namespace
}  // namespace pyeqgan

STABLE_TORCH_LIBRARY_IMPL(pyeqgan, CPU, m) {
  m.impl("equalization_fusion", TORCH_BOX(&pyeqgan::forward));
  m.impl("equalization_fusion_backward", TORCH_BOX(&pyeqgan::backward));
}
