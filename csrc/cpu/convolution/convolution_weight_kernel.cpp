// The weight of a convolution at its points, and the weight's gradient: products of a source's points with those of the
// output gradient, summed over runs of blocks.
#include "../factors.h"
#include "../scratch.h"
#include "convolution.h"
#include "windows.h"

namespace {

using pyeqgan::cpu::kChannelRun;
using pyeqgan::cpu::kInputSpan;
using pyeqgan::cpu::kOutputSpan;

inline const Source& source_of(const Problem& p, int64_t channel) {
  return p.source_count > 1 && channel >= p.sources[1].offset ? p.sources[1] : p.sources[0];
}

// The points of 3×3 taps, `distance` apart.
template <class A, bool upsampled>
inline void store_points(const Vec<A>* taps, A* to, int64_t distance, int64_t per_axis) {
  using Axis = InputAxis<upsampled>;
  Vec<A> half[3][Axis::kPoints];
  for (int column = 0; column < 3; ++column) {
    const Vec<A> line[3] = {taps[column], taps[3 + column], taps[6 + column]};
    Axis::points_of_taps(line, half[column]);
  }
  for (int i = 0; i < Axis::kPoints; ++i) {
    const Vec<A> line[3] = {half[0][i], half[1][i], half[2][i]};
    Vec<A> values[Axis::kPoints];
    Axis::points_of_taps(line, values);
    for (int j = 0; j < Axis::kPoints; ++j) values[j].store(to + slot<upsampled>(i, j, per_axis) * distance);
  }
}

template <class A, bool upsampled>
inline void taps_of_points(const A* points, int64_t distance, int64_t per_axis, int64_t parts, int64_t part,
                           Vec<A>* taps) {
  using Axis = InputAxis<upsampled>;
  Vec<A> half[3][Axis::kPoints];
  for (int i = 0; i < Axis::kPoints; ++i) {
    Vec<A> values[Axis::kPoints], line[3];
    for (int j = 0; j < Axis::kPoints; ++j) {
      const A* from = points + slot<upsampled>(i, j, per_axis) * distance;
      values[j] = Vec<A>::loadu(from);
      for (int64_t k = 1; k < parts; ++k) values[j] = values[j] + Vec<A>::loadu(from + k * part);
    }
    Axis::taps_of_points(values, line);
    for (int column = 0; column < 3; ++column) half[column][i] = line[column];
  }
  for (int column = 0; column < 3; ++column) {
    Vec<A> line[3];
    Axis::taps_of_points(half[column], line);
    for (int row = 0; row < 3; ++row) taps[3 * row + column] = line[row];
  }
}

template <class T>
void points_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const int64_t runs = divide_up(p.in_channels, kChannelRun);
  const int64_t distance = p.panel_count * p.in_channels * kPanel<A>;
  Scratch<A> taps((9 * kChannelRun + kLanes<A>)*kLanes<A>);
  Watch<A> watch(p);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t first = item % runs * kChannelRun, channels = std::min(kChannelRun, p.in_channels - first);
    for (int64_t lane = 0; lane < kPanel<A>; lane += kLanes<A>) {
      const int64_t output = (p.first_panel + item / runs) * kPanel<A> + lane;
      const int64_t lanes = std::clamp<int64_t>(p.out_channels - output, 0, kLanes<A>);
      const T* weight = static_cast<const T*>(p.weight) + (output * p.in_channels + first) * 9;
      for (int64_t k = 0; k < 9 * channels; k += kLanes<A>) {
        Vec<A> columns[kLanes<A>];
        load_columns(weight + k, p.in_channels * 9, lanes, std::min(kLanes<A>, 9 * channels - k), columns);
        for (int64_t i = 0; i < kLanes<A>; ++i) columns[i].store(taps.get() + (k + i) * kLanes<A>);
      }
      for (int64_t c = 0; c < channels; ++c) {
        Vec<A> of_channel[9];
        for (int k = 0; k < 9; ++k) {
          of_channel[k] = Vec<A>::loadu(taps.get() + (9 * c + k) * kLanes<A>);
          watch.see(of_channel[k]);
        }
        A* to = static_cast<A*>(p.points) + (item / runs * p.in_channels + first + c) * kPanel<A> + lane;
        by_kind(source_of(p, first + c),
                [&](auto upsampled) { store_points<A, upsampled>(of_channel, to, distance, p.points_per_axis); });
      }
    }
  }
}

template <class T>
void transposed_points_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const Source& source = p.sources[p.target];
  const int64_t runs = divide_up(p.out_channels, kChannelRun);
  const int64_t distance = p.panel_count * p.out_channels * kPanel<A>;
  // A vector narrower than the nine taps takes them in two loads.
  constexpr int64_t kStep = std::min<int64_t>(kLanes<A>, 9);
  Watch<A> watch(p);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t first = item % runs * kChannelRun, last = std::min(first + kChannelRun, p.out_channels);
    for (int64_t output = first; output < last; ++output) {
      for (int64_t lane = 0; lane < kPanel<A>; lane += kLanes<A>) {
        const int64_t channel = (p.first_panel + item / runs) * kPanel<A> + lane;
        const int64_t lanes = std::clamp<int64_t>(source.channels - channel, 0, kLanes<A>);
        const T* weight = static_cast<const T*>(p.weight) + (output * p.in_channels + source.offset + channel) * 9;
        Vec<A> taps[9 + kLanes<A>];
        for (int64_t k = 0; k < 9; k += kStep) load_columns(weight + k, 9, lanes, std::min(kStep, 9 - k), taps + k);
        for (int k = 0; k < 9; ++k) watch.see(taps[k]);
        A* to = static_cast<A*>(p.points) + (item / runs * p.out_channels + output) * kPanel<A> + lane;
        by_kind(source, [&](auto upsampled) { store_points<A, upsampled>(taps, to, distance, p.points_per_axis); });
      }
    }
  }
}

// The limbs of the points that products read: those of each source by themselves, as its channels are their depth.
template <class T, bool transposed>
void split_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  Source all{};
  all.channels = p.out_channels;
  const Source* sources = transposed ? &all : p.sources;
  const int64_t count = transposed ? 1 : p.source_count, depth = transposed ? p.out_channels : p.in_channels;
  int64_t each = 0;
  for (int64_t s = 0; s < count; ++s) each += deep_panel<A>(true, sources[s].channels);
  for (int64_t item = begin; item < end; ++item) {
    Limb* to = static_cast<Limb*>(p.point_limbs) + item * each;
    for (int64_t s = 0; s < count; to += deep_panel<A>(true, sources[s].channels), ++s) {
      // What is not present has not been written, and is not read.
      if (!present(p, p.sources[transposed ? p.target : s], item / p.panel_count)) continue;
      const A* from = static_cast<const A*>(p.points) + (item * depth + sources[s].offset) * kPanel<A>;
      if (split<Role::kRight>(true, sources[s].channels, kPanel<A>, from, 0, to) == nullptr)
        __atomic_store_n(p.out_of_range, 1, __ATOMIC_RELAXED);
    }
  }
}

// The gradient of the taps between one panel of out_channels and in_channels [first, first + channels), from their
// points: (channel, lane) at from[channel][lane], points `distance` apart, to be summed over `parts`, `part` apart.
template <class T>
void store_taps(const Problem& p, const Acc<T>* from, int64_t distance, int64_t parts, int64_t part, int64_t panel,
                int64_t first, int64_t channels) {
  using A = Acc<T>;
  A taps[(9 * kChannelRun + kLanes<A>)*kLanes<A>];
  Watch<A> watch(p);
  for (; channels > 0; first += kChannelRun, channels -= kChannelRun, from += kChannelRun * kPanel<A>) {
    const int64_t count = std::min(kChannelRun, channels);
    for (int64_t lane = 0; lane < kPanel<A>; lane += kLanes<A>) {
      const int64_t output = panel * kPanel<A> + lane, lanes = std::min(p.out_channels - output, kLanes<A>);
      if (lanes <= 0) break;
      for (int64_t c = 0; c < count; ++c) {
        Vec<A> of_channel[9];
        by_kind(source_of(p, first + c), [&](auto upsampled) {
          taps_of_points<A, upsampled>(from + c * kPanel<A> + lane, distance, p.points_per_axis, parts, part,
                                       of_channel);
        });
        for (int k = 0; k < 9; ++k) {
          watch.see(of_channel[k]);
          of_channel[k].store(taps + (9 * c + k) * kLanes<A>);
        }
      }
      T* to = static_cast<T*>(p.grad_weight) + (output * p.in_channels + first) * 9;
      for (int64_t k = 0; k < 9 * count; k += kLanes<A>) {
        Vec<A> rows[kLanes<A>];
        for (int64_t i = 0; i < kLanes<A>; ++i) rows[i] = Vec<A>::loadu(taps + (k + i) * kLanes<A>);
        transpose<A>(rows);
        for (int64_t i = 0; i < lanes; ++i)
          store(to + i * p.in_channels * 9 + k, rows[i], std::min(kLanes<A>, 9 * count - k));
      }
    }
  }
}

template <class T>
void points_gradient_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const Source& source = p.sources[p.target];
  const int64_t output_panels = panels<A>(p.out_channels), input_panels = panels<A>(source.channels);
  const int64_t output_spans = divide_up(output_panels, kOutputSpan), input_spans = divide_up(input_panels, kInputSpan);
  const int64_t points = point_count(p), most = tiles_per_block(p);
  constexpr int64_t kSpanChannels = kInputSpan * kPanel<A>;
  const bool alone = p.grad_points == nullptr;
  Scratch<A> pixels((2 * p.block_rows + 2) * (2 * p.tile_columns + 2) * kPanel<A>),
      inputs(points * kInputSpan * most * kPanel<A>), outputs(points * kOutputSpan * most * kPanel<A>),
      own(alone ? points * kOutputSpan * kSpanChannels * kPanel<A> : 0);
  const int64_t deep = deep_panel<A>(p.limbs, most);
  const Scratch<Limb> input_limbs(kInputSpan * deep), output_limbs(kOutputSpan * deep);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t group = item / (output_spans * input_spans);
    const int64_t first_input = item / output_spans % input_spans * kInputSpan;
    const int64_t first_output = item % output_spans * kOutputSpan;
    const int64_t input_count = std::min(kInputSpan, input_panels - first_input);
    const int64_t output_count = std::min(kOutputSpan, output_panels - first_output);
    const int64_t first_block = group * p.blocks / p.groups, last_block = (group + 1) * p.blocks / p.groups;
    // Sums of (point, panel of out_channels, channel): the item's own, or its part of those to be summed over groups.
    const int64_t panel_sums = (alone ? kSpanChannels : p.in_channels) * kPanel<A>;
    const int64_t point_sums = (alone ? kOutputSpan : output_panels) * panel_sums;
    A* sums = alone ? own.get()
                    : static_cast<A*>(p.grad_points) + group * points * point_sums + first_output * panel_sums +
                          (source.offset + first_input * kPanel<A>)*kPanel<A>;
    for (int64_t index = first_block; index < last_block; ++index) {
      const Block block(p, index);
      const int64_t panel = block.tiles * kPanel<A>;
      load_source_points<T>(p, source, block, first_input, input_count, pixels.get(), inputs.get(),
                            input_count * panel);
      load_grad_points<T>(p, block, first_output, output_count, pixels.get(), outputs.get());
      for (int64_t point = 0; point < points; ++point) {
        if (!present(p, source, point)) continue;
        const A* input = inputs.get() + point * input_count * panel;
        const A* output = outputs.get() + point * output_count * panel;
        const int64_t input_columns = std::min(input_count * kPanel<A>, source.channels - first_input * kPanel<A>);
        const int64_t output_columns = std::min(output_count * kPanel<A>, p.out_channels - first_output * kPanel<A>);
        const Limb* right =
            split<Role::kRight>(p.limbs, block.tiles, output_columns, output, panel, output_limbs.get());
        const Limb* left =
            split<Role::kTransposedLeft>(right != nullptr, block.tiles, input_columns, input, panel, input_limbs.get());
        const int64_t step = deep_panel<A>(left != nullptr, block.tiles);
        for (int64_t o = 0; o < output_count; ++o)
          for (int64_t i = 0; i < input_count; ++i)
            multiply<A, true>(std::min(kPanel<A>, input_columns - i * kPanel<A>), output_columns - o * kPanel<A>,
                              block.tiles, input + i * panel, 0, left == nullptr ? nullptr : left + i * step,
                              output + o * panel, left == nullptr ? nullptr : right + o * step,
                              sums + point * point_sums + o * panel_sums + i * kPanel<A> * kPanel<A>,
                              index > first_block);
      }
    }
    const int64_t first_channel = first_input * kPanel<A>;
    for (int64_t o = 0; alone && o < output_count; ++o)
      store_taps<T>(p, sums + o * panel_sums, point_sums, 1, 0, first_output + o, source.offset + first_channel,
                    std::min(kSpanChannels, source.channels - first_channel));
  }
}

template <class T>
void gradient_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const int64_t runs = divide_up(p.in_channels, kChannelRun);
  const int64_t distance = panels<A>(p.out_channels) * p.in_channels * kPanel<A>;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t panel = item / runs, first = item % runs * kChannelRun;
    store_taps<T>(p, static_cast<const A*>(p.grad_points) + (panel * p.in_channels + first) * kPanel<A>, distance,
                  p.groups, point_count(p) * distance, panel, first, std::min(kChannelRun, p.in_channels - first));
  }
}

template <class T>
constexpr pyeqgan::cpu::ConvolutionWeightKernels::Typed kernels() {
  return {points_items<T>,   transposed_points_items<T>, points_gradient_items<T>,
          gradient_items<T>, split_items<T, false>,      split_items<T, true>};
}

}  // namespace

namespace pyeqgan::cpu {

const ConvolutionWeightKernels PYEQGAN_TABLE(pyeqgan_convolution_weight) = {
    kernels<float>(), kernels<double>(), kernels<c10::BFloat16>(), kernels<c10::Half>()};

}  // namespace pyeqgan::cpu
