// How the convolution's kernels see their images: blocks of tiles, windows of padded pixels. Only for kernel sources.
#pragma once

#include "../pixels.h"
#include "activation.h"
#include "convolution.h"
#include "winograd.h"

namespace {

using Problem = pyeqgan::cpu::Convolution;
using Source = Problem::Source;

// What padding reads for position i of a line of `size` elements: the index of an element, or -1 for zero, also beyond
// the padding.
inline int64_t padded_index(int64_t i, int64_t size, int64_t padding, pyeqgan::cpu::Padding mode) {
  using pyeqgan::cpu::Padding;
  if (i >= 0 && i < size) return i;
  if (i < -padding || i >= size + padding || mode == Padding::kZeros) return -1;
  if (mode == Padding::kReplicate) return i < 0 ? 0 : size - 1;
  return i < 0 ? -i : 2 * (size - 1) - i;
}

// Tile rows [first_row, first_row + rows) of images [first_image, first_image + images).
struct Block {
  Block(const Problem& p, int64_t index)
      : first_image(index / p.blocks_per_image * p.block_images),
        images(std::min(p.block_images, p.batch - first_image)),
        number(index % p.blocks_per_image),
        first_row(number * p.block_rows),
        rows(std::min(p.block_rows, p.tile_rows - first_row)),
        tiles_per_image(rows * p.tile_columns),
        tiles(images * tiles_per_image) {}
  int64_t first_image, images, number, first_row, rows, tiles_per_image, tiles;
};

inline int64_t tiles_per_block(const Problem& p) { return p.block_images * p.block_rows * p.tile_columns; }
inline int64_t point_count(const Problem& p) { return p.points_per_axis * p.points_per_axis; }

// Which of the panels at hand an item works on, every `span` of them an item of its own.
struct Span {
  Span(const Problem& p, int64_t span, int64_t item)
      : count_of_spans(divide_up(p.panel_count, span)),
        first(item % count_of_spans * span),
        count(std::min(span, p.panel_count - first)),
        rest(item / count_of_spans) {}
  int64_t count_of_spans, first, count, rest;
};

// Whether a source has a value at a point: an upsampled one has none at the third point of either axis.
inline bool present(const Problem& p, const Source& source, int64_t point) {
  return p.points_per_axis == 3 || !source.upsampled || (point / 4 != 2 && point % 4 != 2);
}

// Calls f with std::bool_constant<source.upsampled>.
template <class F>
inline void by_kind(const Source& source, const F& f) {
  source.upsampled ? f(std::true_type()) : f(std::false_type());
}

// Looks out, as long as it lives, for values that are not finite or so large that sums of them might not be.
template <class A>
class Watch {
 public:
  explicit Watch(const Problem& p) : spoiled_(p.spoiled) {}

  // Tells what was seen.
  ~Watch() {
    A lanes[kLanes<A>], sum = 0;
    trace_.store(lanes);
    for (const A lane : lanes) sum += lane;
    if (sum != 0) __atomic_store_n(spoiled_, 1, __ATOMIC_RELAXED);
  }

  void see(const Vec<A>& value) { trace_ = at::vec::fmadd(value * Vec<A>(kLarge), Vec<A>(A(0)), trace_); }

  // `channels` of a panel of pixels; what lies beyond them need not have been written.
  void see(const A* pixels, int64_t count, int64_t channels) {
    for (const A* end = pixels + count * kPanel<A>; pixels < end; pixels += kPanel<A>)
      for (int64_t lane = 0; lane < std::min(channels, kPanel<A>); lane += kLanes<A>) see(Vec<A>::loadu(pixels + lane));
  }

 private:
  // A value that this lifts to infinity leaves a NaN.
  static constexpr A kLarge = std::is_same_v<A, float> ? A(0x1p30) : A(0x1p200);
  int* spoiled_;
  Vec<A> trace_{A(0)};
};

// The window of a source's block: its tiles' pixels, padded.
struct Window {
  Window(const Problem& p, const Source& source, int64_t first_tile_row, int64_t tile_rows)
      : stride(source.upsampled ? 1 : 2),
        rows(stride * tile_rows + 2),
        columns(stride * p.tile_columns + 2),
        padding(source.upsampled ? 1 : p.padding),
        first_row(stride * first_tile_row - padding),
        mode(source.upsampled ? pyeqgan::cpu::Padding::kReplicate : p.padding_mode) {}

  // The adjoint of padding: line i outside a map of `size` lines, added to the line it is a copy of.
  template <class A>
  void fold_line(int64_t i, A* lines, int64_t size, int64_t distance, int64_t length) const {
    const int64_t source = padding == 0 ? -1 : padded_index(i, size, padding, mode);
    if (source < 0) return;
    for (int64_t k = 0; k < length; ++k) lines[source * distance + k] += lines[i * distance + k];
  }

  int64_t stride, rows, columns, padding, first_row;
  pyeqgan::cpu::Padding mode;
};

template <class T>
inline const T* channels_of(const void* data, const Strides& s, int64_t image, int64_t channel) {
  return static_cast<const T*>(data) + image * s.b + channel * s.c;
}

// Loads a panel of an image's channels into a window: activated, then padded.
template <class T>
void load_window(const Problem& p, const Source& source, const Window& window, int64_t image, int64_t channel,
                 Acc<T>* to) {
  using A = Acc<T>;
  const int64_t pitch = window.columns * kPanel<A>, channels = std::min(kPanel<A>, source.channels - channel);
  const T* from = channels_of<T>(source.data, source.strides, image, channel);
  const A slope = static_cast<A>(p.negative_slope);
  Watch<A> watch(p);
  for (int64_t r = 0; r < window.rows; ++r, to += pitch) {
    const int64_t row = padded_index(window.first_row + r, source.height, window.padding, window.mode);
    if (row < 0) {
      std::fill(to, to + pitch, A(0));
      continue;
    }
    A* interior = to + window.padding * kPanel<A>;
    load_row(from + row * source.strides.h, source.strides, channels, source.width, interior);
    for (A* v = interior; v < interior + source.width * kPanel<A>; v += kLanes<A>) {
      const Vec<A> value = Vec<A>::loadu(v);
      watch.see(value);
      activate(value, p.activation, slope).store(v);
    }
    for (int64_t i = 0; i < window.columns - source.width; ++i) {
      const int64_t c = i < window.padding ? i - window.padding : source.width + i - window.padding;
      const int64_t column = padded_index(c, source.width, window.padding, window.mode);
      A* target = interior + c * kPanel<A>;
      if (column < 0) {
        std::fill(target, target + kPanel<A>, A(0));
      } else {
        std::copy(interior + column * kPanel<A>, interior + (column + 1) * kPanel<A>, target);
      }
    }
  }
}

// Loads a panel of the output gradient of a block's image, zero where tiles reach beyond the output.
template <class T>
void load_grad(const Problem& p, const Block& block, int64_t image, int64_t channel, Acc<T>* to) {
  using A = Acc<T>;
  const int64_t columns = 2 * p.tile_columns, channels = std::min(kPanel<A>, p.out_channels - channel);
  const T* from = channels_of<T>(p.grad, p.grad_strides, image, channel);
  for (int64_t r = 2 * block.first_row; r < 2 * (block.first_row + block.rows); ++r, to += columns * kPanel<A>) {
    const int64_t width = r < p.height ? p.width : 0;
    if (width > 0) load_row(from + r * p.grad_strides.h, p.grad_strides, channels, width, to);
    std::fill(to + width * kPanel<A>, to + columns * kPanel<A>, A(0));
  }
}

// The points of a block's output gradient: panels [first, first + count) of out_channels.
template <class T>
void load_grad_points(const Problem& p, const Block& block, int64_t first, int64_t count, Acc<T>* pixels,
                      Acc<T>* points) {
  using A = Acc<T>;
  const int64_t panel = block.tiles * kPanel<A>, distance = count * panel;
  Watch<A> watch(p);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t b = 0; b < block.images; ++b) {
      load_grad<T>(p, block, block.first_image + b, (first + i) * kPanel<A>, pixels);
      watch.see(pixels, 4 * block.tiles_per_image, kPanel<A>);
      A* to = points + i * panel + b * block.tiles_per_image * kPanel<A>;
      p.points_per_axis == 4 ? points_of_outputs<A, 4>(pixels, block.rows, p.tile_columns, to, distance)
                             : points_of_outputs<A, 3>(pixels, block.rows, p.tile_columns, to, distance);
    }
  }
}

// The points of a block of a source: panels [first, first + count).
template <class T>
void load_source_points(const Problem& p, const Source& source, const Block& block, int64_t first, int64_t count,
                        Acc<T>* pixels, Acc<T>* points, int64_t distance) {
  using A = Acc<T>;
  const Window window(p, source, block.first_row, block.rows);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t b = 0; b < block.images; ++b) {
      load_window<T>(p, source, window, block.first_image + b, (first + i) * kPanel<A>, pixels);
      A* to = points + (i * block.tiles + b * block.tiles_per_image) * kPanel<A>;
      by_kind(source, [&](auto upsampled) {
        points_of_window<A, upsampled>(pixels, block.rows, p.tile_columns, to, distance, p.points_per_axis);
      });
    }
  }
}

}  // namespace
