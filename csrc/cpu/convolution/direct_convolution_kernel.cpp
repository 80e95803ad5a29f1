// The output of a convolution and the gradient of its inputs, tap by tap: for kernels of any size, any padding, and
// values of any size, which Winograd's sums and differences would spread over a tile. The interface is that of
// convolution_kernel.cpp, with taps for points.
#include "../scratch.h"
#include "convolution.h"
#include "direct_windows.h"
#include "outputs.h"

namespace {

template <class T>
void output_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const int64_t columns = window_columns(p), room = window_rows(p) * columns * kPanel<A>;
  const int64_t pitch = 2 * p.tile_columns * kPanel<A>;
  int64_t input_panels = 0;
  for (int64_t s = 0; s < p.source_count; ++s) input_panels += panels<A>(p.sources[s].channels);
  Scratch<A> line(columns * kPanel<A>), windows(input_panels * room), pixels(2 * p.block_rows * pitch);
  for (int64_t item = begin; item < end; ++item) {
    const Span span(p, p.output_span, item);
    const Block block(p, span.rest);
    const int64_t first = 2 * block.first_row, rows = std::min(2 * block.rows, p.height - first);
    for (int64_t image = block.first_image; image < block.first_image + block.images; ++image) {
      A* window = windows.get();
      for (int64_t s = 0; s < p.source_count; ++s)
        for (int64_t c = 0; c < p.sources[s].channels; c += kPanel<A>, window += room)
          load_rows<T>(p, p.sources[s], image, c, first - Map(p, p.sources[s]).padding, rows + p.kernel_height - 1,
                       line.get(), window);
      for (int64_t o = span.first; o < span.first + span.count; ++o) {
        const int64_t channel = (p.first_panel + o) * kPanel<A>;
        A bias[kPanel<A>];
        load_bias(static_cast<const T*>(p.bias), channel, p.out_channels - channel, bias);
        for (int64_t r = 0; r < rows; ++r) {
          A* sums = pixels.get() + r * pitch;
          for (int64_t k = 0; k < p.width * kPanel<A>; ++k) sums[k] = bias[k % kPanel<A>];
          for (int64_t tap = 0; tap < taps(p); ++tap) {
            window = windows.get();
            for (int64_t s = 0; s < p.source_count; ++s) {
              const Source& source = p.sources[s];
              const int64_t at = (r + tap / p.kernel_width) * Map(p, source).columns + tap % p.kernel_width;
              const A* weight = static_cast<const A*>(p.points) +
                                ((tap * p.panel_count + o) * p.in_channels + source.offset) * kPanel<A>;
              product<A, false>(p.width, p.out_channels - channel, source.channels, window + at * kPanel<A>, room,
                                weight, sums, true);
              window += panels<A>(source.channels) * room;
            }
          }
        }
        store_output<T>(p, block, image, channel, pixels.get());
      }
    }
  }
}

// From sums over the padded, upsampled map to the gradient of one panel of an image.
template <class T>
void store_gradient(const Problem& p, const Source& source, int64_t image, int64_t channel, Acc<T>* sums,
                    Acc<T>* line) {
  using A = Acc<T>;
  const Map map(p, source);
  const int64_t pitch = map.columns * kPanel<A>, channels = std::min(kPanel<A>, source.channels - channel);
  const auto fold = [&](int64_t i, int64_t size, A* lines, int64_t length) {
    const int64_t to = padded_index(i, size, map.padding, map.mode);
    for (int64_t k = 0; to >= 0 && k < length; ++k) lines[to * length + k] += lines[i * length + k];
  };
  A* origin = sums + map.padding * pitch;
  for (int64_t i = 1; i <= map.padding; ++i) {
    fold(-i, map.height, origin, pitch);
    fold(map.height - 1 + i, map.height, origin, pitch);
  }
  origin += map.padding * kPanel<A>;
  for (int64_t r = 0; r < map.height; ++r) {
    for (int64_t i = 1; i <= map.padding; ++i) {
      fold(-i, map.width, origin + r * pitch, kPanel<A>);
      fold(map.width - 1 + i, map.width, origin + r * pitch, kPanel<A>);
    }
  }
  const T* x = channels_of<T>(source.data, source.strides, image, channel);
  T* to = const_cast<T*>(channels_of<T>(source.grad, source.grad_strides, image, channel));
  for (int64_t r = 0; r < source.height; ++r) {
    load_row(x + r * source.strides.h, source.strides, channels, source.width, line);
    for (int64_t c = 0; c < source.width; ++c) {
      for (int64_t lane = 0; lane < kPanel<A>; lane += kLanes<A>) {
        Vec<A> sum(A(0));
        for (int64_t i = 0; i <= map.shift; ++i)
          for (int64_t j = 0; j <= map.shift; ++j)
            sum = sum +
                  Vec<A>::loadu(origin + ((r << map.shift) + i) * pitch + ((c << map.shift) + j) * kPanel<A> + lane);
        A* v = line + c * kPanel<A> + lane;
        times_slope(sum, Vec<A>::loadu(v), p.activation, static_cast<A>(p.negative_slope)).store(v);
      }
    }
    store_row(to + r * source.grad_strides.h, source.grad_strides, channels, source.width, line);
  }
}

template <class T>
void input_gradient_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const Source& source = p.sources[p.target];
  const Map map(p, source);
  const int64_t output_panels = panels<A>(p.out_channels), row = p.width * kPanel<A>;
  const int64_t room = (map.height + 2 * map.padding) * map.columns * kPanel<A>;
  Scratch<A> sums(p.input_span * room), grad(output_panels * row), line(map.columns * kPanel<A>);
  for (int64_t item = begin; item < end; ++item) {
    const Span span(p, p.input_span, item);
    const int64_t first_image = span.rest * p.block_images;
    for (int64_t image = first_image; image < std::min(first_image + p.block_images, p.batch); ++image) {
      std::fill(sums.get(), sums.get() + span.count * room, A(0));
      for (int64_t r = 0; r < p.height; ++r) {
        for (int64_t o = 0; o < output_panels; ++o)
          load_row(channels_of<T>(p.grad, p.grad_strides, image, o * kPanel<A>) + r * p.grad_strides.h, p.grad_strides,
                   std::min(kPanel<A>, p.out_channels - o * kPanel<A>), p.width, grad.get() + o * row);
        for (int64_t tap = 0; tap < taps(p); ++tap) {
          const int64_t at = (r + tap / p.kernel_width) * map.columns + tap % p.kernel_width;
          for (int64_t i = 0; i < span.count; ++i) {
            const int64_t panel = span.first + i, weight_row = (tap * p.panel_count + panel) * p.out_channels;
            product<A, false>(p.width, source.channels - (p.first_panel + panel) * kPanel<A>, p.out_channels,
                              grad.get(), row, static_cast<const A*>(p.points) + weight_row * kPanel<A>,
                              sums.get() + i * room + at * kPanel<A>, true);
          }
        }
      }
      for (int64_t i = 0; i < span.count; ++i) {
        const int64_t channel = (p.first_panel + span.first + i) * kPanel<A>;
        store_gradient<T>(p, source, image, channel, sums.get() + i * room, line.get());
      }
    }
  }
}

template <class T>
constexpr pyeqgan::cpu::ConvolutionKernels::Typed kernels() {
  return {kPanel<Acc<T>>, output_items<T>, input_gradient_items<T>};
}

}  // namespace

namespace pyeqgan::cpu {

const ConvolutionKernels PYEQGAN_TABLE(pyeqgan_direct_convolution) = {kernels<float>(), kernels<double>(),
                                                                      kernels<c10::BFloat16>(), kernels<c10::Half>()};

}  // namespace pyeqgan::cpu
