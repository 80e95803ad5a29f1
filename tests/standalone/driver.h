// Runs the compiled operations in a process of their own: glue, kernels and torch's tensors, but no Python, and threads
// that are ours. For tools that cannot look through an interpreter or OpenMP: callgrind, ThreadSanitizer.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace driver {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;
using None = std::optional<Tensor>;
using Text = std::optional<std::string>;  // an argument of type `str?`

// An operation on a fixed problem, ready to run.
struct Problem {
  std::string name;
  std::function<Tensors()> run;
};
std::vector<Problem> problems();

// Numbers of [low, high) that are the same in every run; integers for integer dtypes.
Tensor uniform(const std::vector<int64_t>& sizes, double low = -1, double high = 1,
               ScalarType dtype = ScalarType::Float);
// The same numbers in channels_last.
Tensor channels_last(const Tensor& x);

using Boxed = void (*)(StableIValue*, uint64_t, uint64_t);
// The function that the glue has registered under this name.
Boxed registered(const std::string& name);

template <class... Arguments>
std::vector<StableIValue> invoke(const std::string& name, uint64_t results, const Arguments&... arguments) {
  std::vector<StableIValue> stack{torch::stable::detail::from(arguments)...};
  stack.resize(std::max<size_t>(sizeof...(arguments), results));
  registered(name)(stack.data(), sizeof...(arguments), results);
  return stack;
}

// Calls an operation with the arguments of its schema; it returns `results` tensors.
template <class... Arguments>
Tensors call(const std::string& name, uint64_t results, const Arguments&... arguments) {
  const std::vector<StableIValue> stack = invoke(name, results, arguments...);
  Tensors found;
  for (uint64_t i = 0; i < results; ++i) found.push_back(torch::stable::detail::to<Tensor>(stack[i]));
  return found;
}

// The same for an operation that returns a list of tensors.
template <class... Arguments>
Tensors call_for_list(const std::string& name, const Arguments&... arguments) {
  return torch::stable::detail::to<Tensors>(invoke(name, 1, arguments...)[0]);
}

}  // namespace driver
