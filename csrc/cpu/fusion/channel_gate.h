// The channel gate of equalization_fusion, sigmoid(expand(relu(reduce(mean over pixels)))), and its gradient. So few
// numbers that the instruction set does not matter: compiled once, for the accumulation types.
#pragma once

#include <cstdint>

namespace pyeqgan::cpu {

// All arrays are contiguous.
template <class A>
struct ChannelGate {
  int64_t batch, pixels, channels, squeezed;
  const A* pooled;         // (B,C): sums over pixels
  const A* reduce_weight;  // (squeezed,C)
  const A* reduce_bias;    // (squeezed) or null
  const A* expand_weight;  // (C,squeezed)
  const A* expand_bias;    // (C) or null
  A* gate;                 // (B,C): written by forward, read by backward

  // Backward only; the gradients of the parameters are added to what is there.
  const A* grad_gate;  // (B,C)
  A* grad_pooled;      // (B,C): of the sums, that is of the value at each pixel
  A *grad_reduce_weight, *grad_reduce_bias, *grad_expand_weight, *grad_expand_bias;

  void forward() const;
  void backward() const;

 private:
  A mean(int64_t image, int64_t channel) const { return pooled[image * channels + channel] / A(pixels); }
  void squeeze(int64_t image, A* hidden) const;
};

extern template struct ChannelGate<float>;
extern template struct ChannelGate<double>;

}  // namespace pyeqgan::cpu
