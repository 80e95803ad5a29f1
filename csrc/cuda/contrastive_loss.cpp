// Glue of contrastive_loss on the GPU. Rows are sorted by torch, on the device, without waiting for it.
#include "contrastive_loss.h"

#include <torch/csrc/stable/library.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>

#include "glue.h"

namespace pyeqgan {
namespace {

constexpr char kName[] = "contrastive_loss (CUDA)";
constexpr char kBackward[] = "contrastive_loss_backward (CUDA)";
constexpr int64_t kMostRows = (int64_t{1} << 31) - 128;

// In ascending order, and where they were.
std::pair<Tensor, Tensor> sort(const Tensor& x) {
  using torch::stable::detail::from, torch::stable::detail::to;
  std::array<StableIValue, 4> stack{from(x), from(std::optional<bool>(true)), from(int64_t{0}), from(false)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
}

Tensor select(const Tensor& x, const Tensor& indices) {
  using torch::stable::detail::from, torch::stable::detail::to;
  std::array<StableIValue, 3> stack{from(x), from(int64_t{0}), from(indices)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::index_select", "", stack.data(), TORCH_ABI_VERSION));
  return to<Tensor>(stack[0]);
}

// The queries or the keys, and the memory their description points to.
struct Rows {
  Tensor features, labels, order;
  std::optional<Tensor> ids;
  pyeqgan_contrastive_rows description;

  Rows(const Tensor& features, const Tensor& given_labels, const std::optional<Tensor>& given_ids)
      : features(features), labels(given_labels), order(given_labels) {
    if (given_ids.has_value()) {
      ids = torch::stable::contiguous(*given_ids);
      const Tensor by_id = sort(*ids).second;
      std::tie(labels, order) = sort(select(given_labels, by_id));
      order = select(by_id, order);
    } else {
      std::tie(labels, order) = sort(given_labels);
    }
    const auto numbers = [](const Tensor& x) { return static_cast<const int64_t*>(x.const_data_ptr()); };
    description = {features.const_data_ptr(),
                   {features.stride(0), features.stride(1)},
                   numbers(labels),
                   numbers(order),
                   ids.has_value() ? numbers(*ids) : nullptr,
                   features.size(0)};
  }
};

// What forward and backward share, in the order of the schema.
struct Arguments {
  const char* op;
  const Tensor& queries;
  const Tensor& query_labels;
  const std::optional<Tensor>& keys;
  const std::optional<Tensor>& key_labels;
  const Tensor& temperature;
  const std::string& mode;
  bool normalize;
  int64_t ignore_index;
  const std::optional<Tensor>& query_ids;
  const std::optional<Tensor>& key_ids;
};

void check_side(const Arguments& a, const char* name, const Tensor& features, const std::optional<Tensor>& labels,
                const std::optional<Tensor>& ids) {
  PYEQGAN_CHECK(features.dim() == 2 && features.size(1) == a.queries.size(1), a.op, name, "shape (rows, D)",
                shape_of(features));
  PYEQGAN_CHECK(features.size(0) <= kMostRows, a.op, name, std::to_string(kMostRows) + " rows at most",
                features.size(0));
  check_device(a.op, name, features, a.queries);
  check_dtype(a.op, name, features, a.queries.scalar_type());
  for (const auto* numbers : {&labels, &ids}) {
    if (!numbers->has_value()) continue;
    const std::string which = std::string("labels and ids of ") + name;
    check_device(a.op, which.c_str(), **numbers, a.queries);
    check_shape(a.op, which.c_str(), **numbers, {features.size(0)});
    check_dtype(a.op, which.c_str(), **numbers, ScalarType::Long);
  }
}

void check(const Arguments& a) {
  check_cuda(a.op, "queries", a.queries);
  PYEQGAN_CHECK(a.queries.dim() == 2, a.op, "queries", "shape (M, D)", shape_of(a.queries));
  check_side(a, "queries", a.queries, a.query_labels, a.query_ids);
  PYEQGAN_CHECK(a.keys.has_value() == a.key_labels.has_value(), a.op, "keys, key_labels", "both or neither",
                "one of them");
  if (a.keys.has_value()) {
    check_side(a, "keys", *a.keys, a.key_labels, a.key_ids);
    PYEQGAN_CHECK(a.query_ids.has_value() == a.key_ids.has_value(), a.op, "query_ids, key_ids", "both or neither",
                  "one of them");
  } else {
    PYEQGAN_CHECK(!a.key_ids.has_value(), a.op, "key_ids", "None without keys", "a tensor");
  }
  check_shape(a.op, "temperature", a.temperature, {});
  check_dtype(a.op, "temperature", a.temperature, ScalarType::Float);
  if (!a.temperature.is_cpu()) check_device(a.op, "temperature", a.temperature, a.queries);
  PYEQGAN_CHECK(a.mode == "per_positive" || a.mode == "supcon", a.op, "mode", "'per_positive' or 'supcon'", a.mode);
}

// A problem and the memory it points to. The device of the queries must be the current one.
struct Contrast {
  Rows queries;
  std::optional<Rows> keys;
  pyeqgan_contrastive_problem description{};

  explicit Contrast(const Arguments& a) : queries(a.queries, a.query_labels, a.query_ids) {
    pyeqgan_contrastive_problem& d = description;
    if (a.keys.has_value()) keys.emplace(*a.keys, *a.key_labels, a.key_ids);
    d.queries = queries.description;
    if (keys.has_value()) d.keys = keys->description;
    d.single = !keys.has_value();
    d.normalize = a.normalize;
    d.supcon = a.mode == "supcon";
    d.channels = a.queries.size(1);
    d.ignore_index = a.ignore_index;
    const auto* temperature = static_cast<const float*>(a.temperature.const_data_ptr());
    if (a.temperature.is_cpu()) {
      d.temperature_value = *temperature;
    } else {
      d.temperature = temperature;
    }
    d.dtype = dtype_of(a.op, "queries", a.queries);
  }

  Tensor workspace(bool backward) const {
    const int64_t bytes = pyeqgan_contrastive_loss_workspace(&description, backward);
    return torch::stable::new_empty(queries.features, {bytes}, ScalarType::Byte);
  }
};

const float* floats(const Tensor& x) { return static_cast<const float*>(x.const_data_ptr()); }

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& queries, const Tensor& query_labels,
                                                   const std::optional<Tensor>& keys,
                                                   const std::optional<Tensor>& key_labels, const Tensor& temperature,
                                                   std::string mode, bool normalize, int64_t ignore_index,
                                                   const std::optional<Tensor>& query_ids,
                                                   const std::optional<Tensor>& key_ids) {
  const Arguments arguments{kName, queries,   query_labels, keys,      key_labels, temperature,
                            mode,  normalize, ignore_index, query_ids, key_ids};
  check(arguments);
  const int32_t device = queries.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const Contrast contrast(arguments);
  const auto number_a_query = [&](ScalarType dtype) {
    return torch::stable::new_empty(queries, {queries.size(0)}, dtype);
  };
  const Tensor loss = number_a_query(ScalarType::Float), boundary = number_a_query(ScalarType::Float),
               weight = number_a_query(ScalarType::Float), count = number_a_query(ScalarType::Long);
  const Tensor workspace = contrast.workspace(false);
  const auto data = [](const Tensor& x) { return static_cast<float*>(x.mutable_data_ptr()); };
  check_launch(kName, pyeqgan_contrastive_loss(&contrast.description, data(loss), data(boundary), data(weight),
                                               static_cast<int64_t*>(count.mutable_data_ptr()),
                                               workspace.mutable_data_ptr(), current_stream(device)));
  return {loss, boundary, weight, count};
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_loss_, const Tensor& queries, const Tensor& query_labels,
                                            const std::optional<Tensor>& keys, const std::optional<Tensor>& key_labels,
                                            const Tensor& temperature, std::string mode, bool normalize,
                                            int64_t ignore_index, const std::optional<Tensor>& query_ids,
                                            const std::optional<Tensor>& key_ids, const Tensor& boundary_,
                                            const Tensor& weight_, const Tensor& /*count: known from the labels*/,
                                            bool need_queries, bool need_keys, bool need_temperature) {
  const Arguments arguments{kBackward, queries,   query_labels, keys,      key_labels, temperature,
                            mode,      normalize, ignore_index, query_ids, key_ids};
  check(arguments);
  const int32_t device = queries.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const Tensor grad_loss = torch::stable::contiguous(grad_loss_), boundary = torch::stable::contiguous(boundary_),
               weight = torch::stable::contiguous(weight_);
  for (const auto& [name, value] :
       {std::tuple("grad_loss", grad_loss), std::tuple("boundary", boundary), std::tuple("weight", weight)}) {
    check_device(kBackward, name, value, queries);
    check_shape(kBackward, name, value, {queries.size(0)});
    check_dtype(kBackward, name, value, ScalarType::Float);
  }
  const Contrast contrast(arguments);
  const auto gradient_of = [&](const Tensor& features, bool needed) {
    return needed ? torch::stable::new_empty(features, {features.size(0), features.size(1)})
                  : torch::stable::new_empty(features, {0});
  };
  need_keys = need_keys && keys.has_value();
  const Tensor grad_queries = gradient_of(queries, need_queries);
  const Tensor grad_keys = gradient_of(need_keys ? *keys : queries, need_keys);
  const Tensor grad_temperature =
      need_temperature ? torch::stable::new_empty(grad_loss, {}) : torch::stable::new_empty(grad_loss, {0});
  const Tensor workspace = contrast.workspace(true);
  const auto data = [](const Tensor& x, bool needed) { return needed ? x.mutable_data_ptr() : nullptr; };
  check_launch(kBackward, pyeqgan_contrastive_loss_backward(
                              &contrast.description, floats(grad_loss), floats(boundary), floats(weight),
                              data(grad_queries, need_queries), data(grad_keys, need_keys),
                              static_cast<float*>(data(grad_temperature, need_temperature)),
                              workspace.mutable_data_ptr(), current_stream(device)));
  if (!need_temperature || !temperature.is_cpu()) return {grad_queries, grad_keys, grad_temperature};
  Tensor on_host = torch::stable::new_empty(temperature, {});  // of a temperature there: this waits
  torch::stable::copy_(on_host, grad_temperature);
  return {grad_queries, grad_keys, on_host};
}

}  // namespace
}  // namespace pyeqgan

STABLE_TORCH_LIBRARY_FRAGMENT(pyeqgan_cuda, m) {
  m.def(
      "contrastive_loss(Tensor queries, Tensor query_labels, Tensor? keys, Tensor? key_labels, Tensor temperature, str "
      "mode, bool normalize, int ignore_index, Tensor? query_ids, Tensor? key_ids) -> (Tensor loss, Tensor boundary, "
      "Tensor weight, Tensor count)");
  m.def(
      "contrastive_loss_backward(Tensor grad_loss, Tensor queries, Tensor query_labels, Tensor? keys, Tensor? "
      "key_labels, Tensor temperature, str mode, bool normalize, int ignore_index, Tensor? query_ids, Tensor? key_ids, "
      "Tensor boundary, Tensor weight, Tensor count, bool need_queries, bool need_keys, bool need_temperature) -> "
      "(Tensor grad_queries, Tensor grad_keys, Tensor grad_temperature)");
}

STABLE_TORCH_LIBRARY_IMPL(pyeqgan_cuda, CUDA, m) {
  m.impl("contrastive_loss", TORCH_BOX(&pyeqgan::forward));
  m.impl("contrastive_loss_backward", TORCH_BOX(&pyeqgan::backward));
}
