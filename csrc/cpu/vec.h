// Thin aliases over at::vec: the vector of the accumulation type, and loads and stores that convert to it.
// Only for kernel sources, which are compiled once per instruction set (at::vec and the stable ABI do not mix).
#pragma once

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <type_traits>

namespace {

// Sums are kept in float32, for float64 in float64.
template <class T>
using Acc = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
using Vec = at::vec::Vectorized<T>;

template <class A>
constexpr int64_t kLanes = Vec<A>::size();

// n <= kLanes<Acc<T>> elements from memory; lanes beyond n are 0.
template <class T>
inline Vec<Acc<T>> load(const T* from, int64_t n = kLanes<Acc<T>>) {
  if constexpr (std::is_same_v<T, Acc<T>>) {
    return n == kLanes<T> ? Vec<T>::loadu(from) : Vec<T>::loadu(from, n);
  } else if (n == kLanes<float>) {
    Vec<float> wide;
    at::vec::load_to_float(from, wide);
    return wide;
  } else {
    alignas(64) float wide[kLanes<float>] = {};
    for (int64_t i = 0; i < n; ++i) wide[i] = static_cast<float>(from[i]);
    return Vec<float>::loadu(wide);
  }
}

template <class T>
inline void store(T* to, const Vec<Acc<T>>& value, int64_t n = kLanes<Acc<T>>) {
  if constexpr (std::is_same_v<T, Acc<T>>) {
    value.store(to, n);
  } else if (n == kLanes<float>) {
    at::vec::convert_from_float<T>(value, value).store(to, kLanes<float>);
  } else {
    alignas(64) float wide[kLanes<float>];
    value.store(wide);
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(wide[i]);
  }
}

// The first n lanes; the others become 0.
template <class A>
inline Vec<A> first(const Vec<A>& value, int64_t n) {
  return n == kLanes<A> ? value : Vec<A>::set(Vec<A>(A(0)), value, n);
}

template <class A>
inline Vec<A> sigmoid(const Vec<A>& x) {
  return Vec<A>(A(1)) / (Vec<A>(A(1)) + x.neg().exp());
}

}  // namespace
