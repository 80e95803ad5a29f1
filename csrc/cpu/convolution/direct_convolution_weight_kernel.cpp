// The weight of a convolution tap by tap in panels, and its gradient. The interface is that of
// convolution_weight_kernel.cpp, with taps for points.
#include "../scratch.h"
#include "convolution.h"
#include "direct_windows.h"

namespace {

using pyeqgan::cpu::kChannelRun;
using pyeqgan::cpu::kInputSpan;
using pyeqgan::cpu::kOutputSpan;

template <class T>
void points_gradient_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const Source& source = p.sources[p.target];
  const Map map(p, source);
  const int64_t output_panels = panels<A>(p.out_channels), input_panels = panels<A>(source.channels);
  const int64_t output_spans = divide_up(output_panels, kOutputSpan), input_spans = divide_up(input_panels, kInputSpan);
  const int64_t row = 2 * p.tile_columns * kPanel<A>;
  Scratch<A> line(map.columns * kPanel<A>), window(window_rows(p) * map.columns * kPanel<A>),
      grad(2 * p.block_rows * row);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t group = item / (output_spans * input_spans);
    const int64_t first_input = item / output_spans % input_spans * kInputSpan;
    const int64_t first_output = item % output_spans * kOutputSpan;
    const int64_t first_block = group * p.blocks / p.groups, last_block = (group + 1) * p.blocks / p.groups;
    for (int64_t index = first_block; index < last_block; ++index) {
      const Block block(p, index);
      const int64_t first = 2 * block.first_row, rows = std::min(2 * block.rows, p.height - first);
      for (int64_t b = 0; b < block.images; ++b) {
        const int64_t image = block.first_image + b;
        for (int64_t o = first_output; o < std::min(first_output + kOutputSpan, output_panels); ++o) {
          load_grad<T>(p, block, image, o * kPanel<A>, grad.get());
          for (int64_t i = first_input; i < std::min(first_input + kInputSpan, input_panels); ++i) {
            const int64_t channel = i * kPanel<A>;
            load_rows<T>(p, source, image, channel, first - map.padding, rows + p.kernel_height - 1, line.get(),
                         window.get());
            for (int64_t tap = 0; tap < taps(p); ++tap) {
              A* sums =
                  static_cast<A*>(p.grad_points) +
                  (((group * taps(p) + tap) * output_panels + o) * p.in_channels + source.offset + channel) * kPanel<A>;
              for (int64_t r = 0; r < rows; ++r) {
                const int64_t at = (r + tap / p.kernel_width) * map.columns + tap % p.kernel_width;
                product<A, true>(std::min(kPanel<A>, source.channels - channel), p.out_channels - o * kPanel<A>,
                                 p.width, window.get() + at * kPanel<A>, 0, grad.get() + r * row, sums,
                                 index > first_block || b > 0 || r > 0);
              }
            }
          }
        }
      }
    }
  }
}

// Calls f(tap, output channel, input channel, index into the weight), for a run of one channel and all of the other.
template <class F>
inline void for_weight(const Problem& p, int64_t first_output, int64_t outputs, int64_t first_input, int64_t inputs,
                       const F& f) {
  for (int64_t o = first_output; o < std::min(first_output + outputs, p.out_channels); ++o)
    for (int64_t c = first_input; c < std::min(first_input + inputs, p.in_channels); ++c)
      for (int64_t tap = 0; tap < taps(p); ++tap) f(tap, o, c, (o * p.in_channels + c) * taps(p) + tap);
}

template <class T>
void points_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const int64_t runs = divide_up(p.in_channels, kChannelRun);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t panel = item / runs;
    for_weight(
        p, (p.first_panel + panel) * kPanel<A>, kPanel<A>, item % runs * kChannelRun, kChannelRun,
        [&](int64_t tap, int64_t o, int64_t c, int64_t index) {
          static_cast<A*>(p.points)[((tap * p.panel_count + panel) * p.in_channels + c) * kPanel<A> + o % kPanel<A>] =
              static_cast<A>(static_cast<const T*>(p.weight)[index]);
        });
  }
}

template <class T>
void transposed_points_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const Source& source = p.sources[p.target];
  const int64_t runs = divide_up(p.out_channels, kChannelRun);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t panel = item / runs, first = (p.first_panel + panel) * kPanel<A>;
    for_weight(
        p, item % runs * kChannelRun, kChannelRun, source.offset + first, std::min(kPanel<A>, source.channels - first),
        [&](int64_t tap, int64_t o, int64_t c, int64_t index) {
          static_cast<A*>(
              p.points)[((tap * p.panel_count + panel) * p.out_channels + o) * kPanel<A> + c - source.offset - first] =
              static_cast<A>(static_cast<const T*>(p.weight)[index]);
        });
  }
}

template <class T>
void gradient_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const int64_t runs = divide_up(p.in_channels, kChannelRun), output_panels = panels<A>(p.out_channels);
  const int64_t part = taps(p) * output_panels * p.in_channels * kPanel<A>;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t panel = item / runs;
    for_weight(p, panel * kPanel<A>, kPanel<A>, item % runs * kChannelRun, kChannelRun,
               [&](int64_t tap, int64_t o, int64_t c, int64_t index) {
                 const A* from = static_cast<const A*>(p.grad_points) +
                                 ((tap * output_panels + panel) * p.in_channels + c) * kPanel<A> + o % kPanel<A>;
                 A sum = 0;
                 for (int64_t group = 0; group < p.groups; ++group) sum += from[group * part];
                 static_cast<T*>(p.grad_weight)[index] = static_cast<T>(sum);
               });
  }
}

template <class T>
constexpr pyeqgan::cpu::ConvolutionWeightKernels::Typed kernels() {
  return {points_items<T>, transposed_points_items<T>, points_gradient_items<T>, gradient_items<T>, nullptr, nullptr};
}

}  // namespace

namespace pyeqgan::cpu {

const ConvolutionWeightKernels PYEQGAN_TABLE(pyeqgan_direct_convolution_weight) = {
    kernels<float>(), kernels<double>(), kernels<c10::BFloat16>(), kernels<c10::Half>()};

}  // namespace pyeqgan::cpu
