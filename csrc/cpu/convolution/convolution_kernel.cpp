// The output of a convolution and the gradient of its inputs, one block of tiles after another: pixels to points, a
// product of channels at each point, points to pixels.
#include "../factors.h"
#include "../scratch.h"
#include "convolution.h"
#include "outputs.h"

namespace {

// The limbs of a point and panel (`item`) of the weight of one source; null if there are none.
template <class A>
inline const Limb* limbs_of_points(const Problem& p, int64_t item, int64_t source) {
  if (p.point_limbs == nullptr) return nullptr;
  int64_t each = 0, before = 0;
  for (int64_t s = 0; s < p.source_count; ++s) {
    if (s == source) before = each;
    each += deep_panel<A>(true, p.sources[s].channels);
  }
  return static_cast<const Limb*>(p.point_limbs) + item * each + before;
}

template <class T>
void output_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const int64_t points = point_count(p), most = tiles_per_block(p);
  int64_t input_panels = 0;
  for (int64_t s = 0; s < p.source_count; ++s) input_panels += panels<A>(p.sources[s].channels);
  Scratch<A> pixels((2 * p.block_rows + 2) * (2 * p.tile_columns + 2) * kPanel<A>),
      inputs(points * input_panels * most * kPanel<A>), outputs(points * p.output_span * most * kPanel<A>);
  const bool limbs = p.point_limbs != nullptr;
  const Scratch<Limb> input_limbs(input_panels * left_panel<A>(limbs, most));
  Watch<A> watch(p);
  for (int64_t item = begin; item < end; ++item) {
    const Span span(p, p.output_span, item);
    const Block block(p, span.rest);
    const int64_t panel = block.tiles * kPanel<A>;
    A* input = inputs.get();
    for (int64_t s = 0; s < p.source_count; ++s) {
      const Source& source = p.sources[s];
      const int64_t count = panels<A>(source.channels);
      load_source_points<T>(p, source, block, 0, count, pixels.get(), input, input_panels * panel);
      input += count * panel;
    }
    for (int64_t point = 0; point < points; ++point) {
      bool add = false;
      int64_t first_panel = point * input_panels;
      for (int64_t s = 0; s < p.source_count; ++s) {
        const Source& source = p.sources[s];
        input = inputs.get() + first_panel * panel;
        const Limb* left = split<Role::kLeft>(limbs && present(p, source, point), block.tiles, source.channels, input,
                                              panel, input_limbs.get());
        for (int64_t o = 0; o < span.count && present(p, source, point); ++o) {
          const int64_t item = point * p.panel_count + span.first + o;
          multiply<A, false>(block.tiles, p.out_channels - (p.first_panel + span.first + o) * kPanel<A>,
                             source.channels, input, panel, left,
                             static_cast<const A*>(p.points) + (item * p.in_channels + source.offset) * kPanel<A>,
                             limbs_of_points<A>(p, item, s), outputs.get() + (point * span.count + o) * panel, add);
        }
        add |= present(p, source, point);
        first_panel += panels<A>(source.channels);
      }
    }
    for (int64_t o = 0; o < span.count; ++o) {
      const int64_t channel = (p.first_panel + span.first + o) * kPanel<A>;
      A bias[kPanel<A>];
      load_bias(static_cast<const T*>(p.bias), channel, p.out_channels - channel, bias);
      for (int64_t b = 0; b < block.images; ++b) {
        const A* from = outputs.get() + o * panel + b * block.tiles_per_image * kPanel<A>;
        const int64_t distance = span.count * panel;
        p.points_per_axis == 4
            ? outputs_of_points<A, 4>(from, distance, block.rows, p.tile_columns, bias, pixels.get())
            : outputs_of_points<A, 3>(from, distance, block.rows, p.tile_columns, bias, pixels.get());
        watch.see(pixels.get(), 4 * block.tiles_per_image, p.out_channels - channel);
        store_output<T>(p, block, block.first_image + b, channel, pixels.get());
      }
    }
  }
}

// Stores the rows of the map before `last` from a window of their gradient's sums, times the activation's slope.
template <class T>
void store_input_gradient(const Problem& p, const Source& source, const Window& window, int64_t image, int64_t channel,
                          int64_t last, Acc<T>* sums, Acc<T>* row) {
  using A = Acc<T>;
  const int64_t channels = std::min(kPanel<A>, source.channels - channel);
  const T* x = channels_of<T>(source.data, source.strides, image, channel);
  T* to = const_cast<T*>(channels_of<T>(source.grad, source.grad_strides, image, channel));
  for (int64_t r = std::max<int64_t>(window.first_row, 0); r < last; ++r) {
    A* interior = sums + ((r - window.first_row) * window.columns + window.padding) * kPanel<A>;
    for (const int64_t c : {int64_t{-1}, source.width})
      window.fold_line(c, interior, source.width, kPanel<A>, kPanel<A>);
    if (p.activation != Activation::kNone) {
      load_row(x + r * source.strides.h, source.strides, channels, source.width, row);
      for (int64_t v = 0; v < source.width * kPanel<A>; v += kLanes<A>)
        times_slope(Vec<A>::loadu(interior + v), Vec<A>::loadu(row + v), p.activation, static_cast<A>(p.negative_slope))
            .store(interior + v);
    }
    store_row(to + r * source.grad_strides.h, source.grad_strides, channels, source.width, interior);
  }
}

template <class T>
void input_gradient_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const Source& source = p.sources[p.target];
  const int64_t output_panels = panels<A>(p.out_channels), points = point_count(p), most = tiles_per_block(p);
  const int64_t window_size = (2 * p.block_rows + 2) * (2 * p.tile_columns + 2) * kPanel<A>;
  Scratch<A> pixels(window_size), windows(p.input_span * p.block_images * window_size),
      outputs(points * output_panels * most * kPanel<A>), inputs(points * p.input_span * most * kPanel<A>);
  const bool limbs = p.point_limbs != nullptr;
  const Scratch<Limb> output_limbs(output_panels * left_panel<A>(limbs, most));
  Watch<A> watch(p);
  for (int64_t item = begin; item < end; ++item) {
    const Span span(p, p.input_span, item);
    for (int64_t number = 0; number < p.blocks_per_image; ++number) {
      const Block block(p, span.rest * p.blocks_per_image + number);
      const Window window(p, source, block.first_row, block.rows);
      const int64_t panel = block.tiles * kPanel<A>, pitch = window.columns * kPanel<A>;
      load_grad_points<T>(p, block, 0, output_panels, pixels.get(), outputs.get());
      for (int64_t point = 0; point < points; ++point) {
        if (!present(p, source, point)) continue;
        const A* output = outputs.get() + point * output_panels * panel;
        const Limb* left = split<Role::kLeft>(limbs, block.tiles, p.out_channels, output, panel, output_limbs.get());
        for (int64_t i = 0; i < span.count; ++i) {
          const int64_t row = point * p.panel_count + span.first + i;
          const Limb* right =
              limbs ? static_cast<const Limb*>(p.point_limbs) + row * deep_panel<A>(true, p.out_channels) : nullptr;
          multiply<A, false>(block.tiles, source.channels - (p.first_panel + span.first + i) * kPanel<A>,
                             p.out_channels, output, panel, left,
                             static_cast<const A*>(p.points) + row * p.out_channels * kPanel<A>, right,
                             inputs.get() + (point * span.count + i) * panel, false);
        }
      }
      const bool start = number == 0, end_of_map = number == p.blocks_per_image - 1;
      for (int64_t i = 0; i < span.count; ++i) {
        const int64_t channel = (p.first_panel + span.first + i) * kPanel<A>;
        for (int64_t b = 0; b < block.images; ++b) {
          // The window's first two rows were begun by the block above.
          A* sums = windows.get() + (i * p.block_images + b) * window_size;
          std::fill(sums + (start ? 0 : 2 * pitch), sums + window.rows * pitch, A(0));
          by_kind(source, [&](auto upsampled) {
            add_to_window<A, upsampled>(inputs.get() + i * panel + b * block.tiles_per_image * kPanel<A>,
                                        span.count * panel, p.points_per_axis, block.rows, p.tile_columns, sums);
          });
          watch.see(sums, window.rows * window.columns, source.channels - channel);
          // Rows that padding read beyond the map, added to those it read.
          A* origin = sums - window.first_row * pitch;
          if (start) window.fold_line(-1, origin, source.height, pitch, pitch);
          if (end_of_map) window.fold_line(source.height, origin, source.height, pitch, pitch);
          const int64_t last = std::min(window.first_row + window.rows - (end_of_map ? 0 : 2), source.height);
          store_input_gradient<T>(p, source, window, block.first_image + b, channel, last, sums, pixels.get());
          std::copy(sums + (window.rows - 2) * pitch, sums + window.rows * pitch, sums);
        }
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

const ConvolutionKernels PYEQGAN_TABLE(pyeqgan_convolution) = {kernels<float>(), kernels<double>(),
                                                               kernels<c10::BFloat16>(), kernels<c10::Half>()};

}  // namespace pyeqgan::cpu
