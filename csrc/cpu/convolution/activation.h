// The activations the convolutions know, on vectors of the accumulation type. Only for kernel sources.
#pragma once

#include "../vec.h"
#include "convolution.h"

namespace {

using pyeqgan::cpu::Activation;

template <class A>
inline Vec<A> activate(const Vec<A>& x, Activation activation, A slope) {
  switch (activation) {
    case Activation::kRelu:  // not a product with 0, so that -inf gives 0; a NaN stays
      return Vec<A>::blendv(x, Vec<A>(A(0)), x < Vec<A>(A(0)));
    case Activation::kLeakyRelu:
      return Vec<A>::blendv(x * Vec<A>(slope), x, x > Vec<A>(A(0)));
    case Activation::kTanh:
      return x.tanh();
    default:
      return x;
  }
}

// grad · act'(x), of y = act(x).
template <class A>
inline Vec<A> times_slope_at(const Vec<A>& grad, const Vec<A>& y, Activation activation, A slope) {
  switch (activation) {
    case Activation::kRelu:
      return Vec<A>::blendv(grad, Vec<A>(A(0)), y <= Vec<A>(A(0)));
    case Activation::kLeakyRelu:
      return Vec<A>::blendv(grad * Vec<A>(slope), grad, y > Vec<A>(A(0)));
    case Activation::kTanh:
      return grad * (Vec<A>(A(1)) - y * y);
    default:
      return grad;
  }
}

// grad · act'(x).
template <class A>
inline Vec<A> times_slope(const Vec<A>& grad, const Vec<A>& x, Activation activation, A slope) {
  return times_slope_at(grad, activation == Activation::kTanh ? x.tanh() : x, activation, slope);
}

}  // namespace
