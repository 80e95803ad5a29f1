#include "channel_gate.h"

#include <cmath>
#include <vector>

namespace pyeqgan::cpu {

// relu(reduce(mean)) of one image.
template <class A>
void ChannelGate<A>::squeeze(int64_t image, A* hidden) const {
  for (int64_t j = 0; j < squeezed; ++j) {
    A sum = reduce_bias == nullptr ? A(0) : reduce_bias[j];
    for (int64_t c = 0; c < channels; ++c) sum += reduce_weight[j * channels + c] * mean(image, c);
    hidden[j] = sum < 0 ? A(0) : sum;  // a NaN stays
  }
}

template <class A>
void ChannelGate<A>::forward() const {
  std::vector<A> hidden(squeezed);
  for (int64_t b = 0; b < batch; ++b) {
    squeeze(b, hidden.data());
    for (int64_t c = 0; c < channels; ++c) {
      A sum = expand_bias == nullptr ? A(0) : expand_bias[c];
      for (int64_t j = 0; j < squeezed; ++j) sum += expand_weight[c * squeezed + j] * hidden[j];
      gate[b * channels + c] = 1 / (1 + std::exp(-sum));
    }
  }
}

template <class A>
void ChannelGate<A>::backward() const {
  std::vector<A> hidden(squeezed), grad_hidden(squeezed);
  for (int64_t b = 0; b < batch; ++b) {
    squeeze(b, hidden.data());
    grad_hidden.assign(squeezed, A(0));
    for (int64_t c = 0; c < channels; ++c) {
      const A value = gate[b * channels + c], grad = grad_gate[b * channels + c] * value * (1 - value);
      grad_expand_bias[c] += grad;
      for (int64_t j = 0; j < squeezed; ++j) {
        grad_expand_weight[c * squeezed + j] += grad * hidden[j];
        grad_hidden[j] += grad * expand_weight[c * squeezed + j];
      }
    }
    for (int64_t c = 0; c < channels; ++c) grad_pooled[b * channels + c] = 0;
    for (int64_t j = 0; j < squeezed; ++j) {
      const A grad = hidden[j] > 0 ? grad_hidden[j] : A(0);
      grad_reduce_bias[j] += grad;
      for (int64_t c = 0; c < channels; ++c) {
        grad_reduce_weight[j * channels + c] += grad * mean(b, c);
        grad_pooled[b * channels + c] += grad * reduce_weight[j * channels + c] / A(pixels);
      }
    }
  }
}

template struct ChannelGate<float>;
template struct ChannelGate<double>;

}  // namespace pyeqgan::cpu
