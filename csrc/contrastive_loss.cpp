// Glue of contrastive_loss: results allocated, kernels run in their order. The contract is in
// pyeqgan/ops/contrastive_loss.py, the maths in cpu/contrastive_loss.
#include "cpu/contrastive_loss/contrastive_loss.h"

#include <torch/csrc/stable/library.h>

#include <limits>
#include <optional>
#include <string>
#include <tuple>

#include "check.h"
#include "contrastive_work.h"

namespace pyeqgan {
namespace {

constexpr char kName[] = "contrastive_loss";
constexpr char kBackward[] = "contrastive_loss_backward";

template <class Table>
const typename Table::Typed& kernels_of(const Table& table, ScalarType accumulation) {
  return accumulation == ScalarType::Double ? table.f64 : table.f32;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& queries, const Tensor& query_labels,
                                                   const std::optional<Tensor>& keys,
                                                   const std::optional<Tensor>& key_labels, const Tensor& temperature,
                                                   std::string mode, bool normalize, int64_t ignore_index,
                                                   const std::optional<Tensor>& query_ids,
                                                   const std::optional<Tensor>& key_ids) {
  const auto& rows = of_dtype(PYEQGAN_CHOOSE(cpu::pyeqgan_contrastive_rows), queries.scalar_type(), kName);
  ContrastiveWork work(
      {kName, queries, query_labels, keys, key_labels, temperature, mode, normalize, ignore_index, query_ids, key_ids});
  cpu::ContrastiveLoss& p = work.problem;
  // As they are where a query takes no part.
  const auto full = [&](double value, ScalarType dtype) {
    return torch::stable::full({queries.size(0)}, value, dtype, std::nullopt, queries.device());
  };
  const Tensor loss = full(0, work.accumulation()), weight = full(0, work.accumulation());
  const Tensor boundary = full(-std::numeric_limits<double>::infinity(), work.accumulation());
  const Tensor count = full(0, ScalarType::Long);
  p.loss = loss.mutable_data_ptr();
  p.boundaries = boundary.mutable_data_ptr();
  p.weights = weight.mutable_data_ptr();
  p.counts = static_cast<int64_t*>(count.mutable_data_ptr());
  p.maximum = work.buffer(p.queries);
  p.boundary = work.buffer(p.queries);
  for (cpu::ContrastiveSums* sums : {&p.first, &p.second})
    *sums = {work.buffer(p.queries), work.buffer(p.queries, cpu::ContrastiveSums::kLanes)};

  const auto& kernels = kernels_of(PYEQGAN_CHOOSE(cpu::pyeqgan_contrastive_forward), work.accumulation());
  work.pack(rows.pack);
  work.query_blocks(kernels.open);
  work.pairs(kernels.forward);
  work.query_blocks(kernels.close);
  if (!p.supcon) work.pairs(kernels.positives);
  work.query_blocks(kernels.finish);
  return {loss, boundary, weight, count};
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_loss_, const Tensor& queries, const Tensor& query_labels,
                                            const std::optional<Tensor>& keys, const std::optional<Tensor>& key_labels,
                                            const Tensor& temperature, std::string mode, bool normalize,
                                            int64_t ignore_index, const std::optional<Tensor>& query_ids,
                                            const std::optional<Tensor>& key_ids, const Tensor& boundary_,
                                            const Tensor& weight_, const Tensor& /*count: known from the labels*/,
                                            bool need_queries, bool need_keys, bool need_temperature) {
  const auto& rows = of_dtype(PYEQGAN_CHOOSE(cpu::pyeqgan_contrastive_rows), queries.scalar_type(), kBackward);
  ContrastiveWork work({kBackward, queries, query_labels, keys, key_labels, temperature, mode, normalize, ignore_index,
                        query_ids, key_ids});
  cpu::ContrastiveLoss& p = work.problem;
  const Tensor grad_loss = torch::stable::contiguous(grad_loss_), boundary = torch::stable::contiguous(boundary_),
               weight = torch::stable::contiguous(weight_);
  for (const auto& [name, value] :
       {std::tuple("grad_loss", grad_loss), std::tuple("boundary", boundary), std::tuple("weight", weight)}) {
    check_cpu(kBackward, name, value);
    check_shape(kBackward, name, value, {queries.size(0)});
    check_dtype(kBackward, name, value, work.accumulation());
  }
  p.grad_loss = grad_loss.const_data_ptr();
  p.boundaries = const_cast<void*>(boundary.const_data_ptr());
  p.weights = const_cast<void*>(weight.const_data_ptr());
  for (void** each : {&p.share, &p.pull, &p.shift}) *each = work.buffer(p.queries);

  need_keys = need_keys && !p.self;
  const Tensor none = torch::stable::new_empty(work.queries(), {0});
  // Zeros: rows that take no part are not written.
  const auto want = [&](cpu::ContrastiveSide& side, const Tensor& like) {
    const Tensor grad = torch::stable::new_zeros(like, {like.size(0), like.size(1)});
    side.sums = work.buffer(side, p.stride);
    side.target = grad.mutable_data_ptr();
    return grad;
  };
  const Tensor grad_queries = need_queries ? want(p.queries, work.queries()) : none;
  const Tensor grad_keys = need_keys ? want(p.keys, work.keys()) : none;
  // The temperature's gradient follows from that of either side.
  if (need_temperature && !need_queries && !need_keys) p.queries.sums = work.buffer(p.queries, p.stride);

  const auto& kernels = kernels_of(PYEQGAN_CHOOSE(cpu::pyeqgan_contrastive_backward), work.accumulation());
  work.pack(rows.pack);
  p.scale = kernels.scale(p);
  work.query_blocks(kernels.prepare);
  work.pairs(kernels.backward);
  work.blocks(rows.unpack);
  if (!need_temperature) return {grad_queries, grad_keys, torch::stable::new_empty(grad_loss, {0})};
  const cpu::ContrastiveSide& side = p.queries.sums != nullptr ? p.queries : p.keys;
  double slope = 0;
  for (int64_t b = 0; b < side.blocks(); ++b) slope += side.slopes[b];
  // Σ row·(its gradient) counts each s = q·k/τ once; in self-contrast, where a row is both, twice.
  const double grad_temperature = -slope / p.temperature / (p.self ? 2 : 1);
  return {grad_queries, grad_keys,
          torch::stable::full({}, grad_temperature, work.accumulation(), std::nullopt, queries.device())};
}

}  // namespace
}  // namespace pyeqgan

STABLE_TORCH_LIBRARY_IMPL(pyeqgan, CPU, m) {
  m.impl("contrastive_loss", TORCH_BOX(&pyeqgan::forward));
  m.impl("contrastive_loss_backward", TORCH_BOX(&pyeqgan::backward));
}
