// 1×1 convolutions and their adjoints: blocks of pixels are brought into panels, multiplied, and stored.
//
// An image whose pixels lie side by side is worked on in panels of pixels, its channels being rows; one whose channels
// lie side by side in panels of channels, its pixels being rows. So neither is transposed, but for one factor of the
// weight's gradient.
#include "../factors.h"
#include "../pixels.h"
#include "../scratch.h"
#include "activation.h"
#include "moments.h"
#include "pointwise.h"

namespace {

using Problem = pyeqgan::cpu::Pointwise;
using Image = Problem::Image;
using Source = Problem::Source;

// Pixels [first, first + count) of an image.
struct Block {
  Block(const Problem& p, int64_t item)
      : image(item / p.blocks()),
        number(item % p.blocks()),
        first(number * Problem::kBlock),
        count(std::min(Problem::kBlock, p.pixels - first)) {}
  int64_t image, number, first, count;
};

// A block of an image as a matrix in memory, and how it lies in panels: over pixels or over channels.
template <class T>
class View {
 public:
  using A = Acc<T>;

  View(const Problem& p, const Image& image, const Block& block, bool over_pixels)
      : channel_step_(image.channels_last ? 1 : p.pixels), pixel_step_(image.channels_last ? image.channels : 1) {
    data_ = const_cast<T*>(static_cast<const T*>(image.data)) + block.image * image.channels * p.pixels +
            block.first * pixel_step_;
    columns_ = over_pixels ? block.count : image.channels;
    rows_ = over_pixels ? image.channels : block.count;
    strides_ = over_pixels ? Strides{0, pixel_step_, 0, channel_step_} : Strides{0, channel_step_, 0, pixel_step_};
  }

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  int64_t panel() const { return rows_ * kPanel<A>; }  // distance of panels

  // Panels [first, last). What lies side by side is read in one go, however many panels it goes to.
  void load(int64_t first, int64_t last, A* to) const {
    for_pieces(first, last, [&](int64_t row, int64_t rows, int64_t i, int64_t columns) {
      if (rows == 1) prefetch(at(row + 2, i));
      load_row(at(row, i), strides_, columns, rows, to + (i - first) * panel() + row * kPanel<A>);
    });
  }
  void store(const A* from) const {
    for_pieces(0, panels<A>(columns_), [&](int64_t row, int64_t rows, int64_t i, int64_t columns) {
      store_row(at(row, i), strides_, columns, rows, from + i * panel() + row * kPanel<A>);
    });
  }

 private:
  T* at(int64_t row, int64_t i) const { return data_ + row * strides_.w + i * kPanel<A> * strides_.c; }

  // Rows are far apart, often in pages of their own: the processor does not see the next ones coming.
  static void prefetch(const T* piece) {
    for (int64_t i = 0; i < kPanel<A>; i += 64 / sizeof(T)) __builtin_prefetch(piece + i);
  }

  // Calls f(first row, rows, panel, columns of the panel).
  template <class F>
  void for_pieces(int64_t first, int64_t last, const F& f) const {
    const int64_t rows = strides_.c == 1 ? 1 : rows_;
    for (int64_t row = 0; row < rows_; row += rows)
      for (int64_t i = first; i < last; ++i) f(row, rows, i, std::min(kPanel<A>, columns_ - i * kPanel<A>));
  }

  T* data_;
  int64_t channel_step_, pixel_step_, rows_, columns_;
  Strides strides_;
};

// All panels of a block of a source, activated.
template <class T>
void load_source(const Problem& p, const View<T>& view, Acc<T>* to) {
  using A = Acc<T>;
  view.load(0, panels<A>(view.columns()), to);
  if (p.activation == Activation::kNone) return;
  for (const A* end = to + panels<A>(view.columns()) * view.panel(); to < end; to += kLanes<A>)
    activate(Vec<A>::loadu(to), p.activation, static_cast<A>(p.negative_slope)).store(to);
}

// Room for a block of so many channels, in panels of either kind.
template <class A>
constexpr int64_t room(int64_t channels) {
  return panels<A>(channels) * kPanel<A> * Problem::kBlock;
}

inline int64_t most_channels(const Problem& p) {
  int64_t most = 0;
  for (int64_t s = 0; s < p.source_count; ++s) most = std::max(most, p.sources[s].channels);
  return most;
}

template <class A>
int64_t room_of_source(const Problem& p) {
  return room<A>(most_channels(p));
}

// The weight between a source and the output, as a matrix: rows of out_channels and columns of the source's channels,
// or transposed. In panels over its columns, one source after the other.
template <class T>
void pack(const Problem& p, const Source& source, bool transposed, Acc<T>* to) {
  using A = Acc<T>;
  const T* from = static_cast<const T*>(p.weight) + source.offset;
  const int64_t rows = transposed ? source.channels : p.out_channels;
  const int64_t columns = transposed ? p.out_channels : source.channels;
  const Strides s = transposed ? Strides{0, p.in_channels, 0, 1} : Strides{0, 1, 0, p.in_channels};
  for (int64_t c = 0; c < columns; c += kPanel<A>, to += rows * kPanel<A>)
    load_row(from + c * s.c, s, std::min(kPanel<A>, columns - c), rows, to);
}

// The packed weights of the sources, one after the other. In panels of pixels a weight is the left factor of a product,
// in panels of channels the right one.
template <class A>
class Packed {
 public:
  Packed(const Problem& p, bool gradient) : p_(p), left_(!p.output.channels_last), transposed_(gradient == left_) {}

  bool left() const { return left_; }
  bool transposed() const { return transposed_; }
  int64_t rows(const Source& source) const { return transposed_ ? source.channels : p_.out_channels; }
  int64_t columns(const Source& source) const { return transposed_ ? p_.out_channels : source.channels; }

  A* panels_of(int64_t index) const {
    return static_cast<A*>(p_.packed) + sum(index, [this](int64_t rows) { return rows * kPanel<A>; });
  }
  // Null if the matrix unit cannot take it.
  Limb* limbs_of(int64_t index) const {
    if (p_.packed_limbs == nullptr) return nullptr;
    return static_cast<Limb*>(p_.packed_limbs) + sum(index, [this](int64_t rows) { return limb_panel(rows); });
  }
  int64_t limb_panel(int64_t rows) const {
    return left_ ? left_panel<A>(p_.limbs, rows) : deep_panel<A>(p_.limbs, rows);
  }

 private:
  // Over the sources before one: their panels times each(rows).
  template <class F>
  int64_t sum(int64_t index, const F& each) const {
    int64_t total = 0;
    for (int64_t s = 0; s < index; ++s) total += panels<A>(columns(p_.sources[s])) * each(rows(p_.sources[s]));
    return total;
  }

  const Problem& p_;
  const bool left_, transposed_;
};

template <class T, bool gradient>
void pack_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const Packed<A> packed(p, gradient);
  for (int64_t s = begin; s < end; ++s) {
    const Source& source = p.sources[s];
    const int64_t rows = packed.rows(source), columns = packed.columns(source);
    A* to = packed.panels_of(s);
    Limb* limbs = packed.limbs_of(s);
    pack<T>(p, source, packed.transposed(), to);
    if (limbs == nullptr) continue;
    const Limb* found = packed.left() ? split<Role::kLeft>(p.limbs, rows, columns, to, rows * kPanel<A>, limbs)
                                      : split<Role::kRight>(p.limbs, rows, columns, to, rows * kPanel<A>, limbs);
    if (found == nullptr) __atomic_store_n(p.out_of_range, 1, __ATOMIC_RELAXED);
  }
}

// A block in panels (over pixels, or channels), as a factor of its products with weights.
template <class A>
class BlockFactor {
 public:
  BlockFactor(const Problem& p, int64_t most_channels, bool wanted)
      : limbs_(wanted && p.limbs),
        memory_(std::max(panels<A>(Problem::kBlock) * deep_panel<A>(limbs_, most_channels),
                         panels<A>(most_channels) * left_panel<A>(limbs_, Problem::kBlock))) {}

  void set(bool over_pixels, int64_t rows, int64_t columns, const A* panels) {
    data = panels;
    limbs = over_pixels ? split<Role::kRight>(limbs_, rows, columns, panels, rows * kPanel<A>, memory_.get())
                        : split<Role::kLeft>(limbs_, rows, columns, panels, rows * kPanel<A>, memory_.get());
  }

  const A* data = nullptr;
  const Limb* limbs = nullptr;

 private:
  const bool limbs_;
  Scratch<Limb> memory_;
};

// to = or += the product of a block in panels (over pixels, or channels) with a packed weight of `channels` results.
// A panel of the result is as wide as `columns` and has as many rows as the view that it is to be stored through.
template <class A>
inline void multiply(bool over_pixels, const Block& block, int64_t depth, int64_t channels,
                     const BlockFactor<A>& factor, const A* weight, const Limb* weight_limbs, A* to, bool add) {
  const int64_t rows = over_pixels ? channels : block.count, columns = over_pixels ? block.count : channels;
  const A *left = over_pixels ? weight : factor.data, *right = over_pixels ? factor.data : weight;
  const Limb* left_limbs = over_pixels ? weight_limbs : factor.limbs;
  const Limb* right_limbs = over_pixels ? factor.limbs : weight_limbs;
  const int64_t step = deep_panel<A>(right_limbs != nullptr, depth);
  for (int64_t i = 0; i < panels<A>(columns); ++i)
    multiply<A, false>(rows, columns - i * kPanel<A>, depth, left, rows * kPanel<A>, left_limbs,
                       right + i * depth * kPanel<A>, right_limbs == nullptr ? nullptr : right_limbs + i * step,
                       to + i * rows * kPanel<A>, add);
}

// Adds a bias to each pixel of panels over pixels (a row is a channel) or over channels.
template <class A>
inline void add_bias(bool over_pixels, int64_t rows, int64_t count, const A* bias, A* sums) {
  for (int64_t i = 0; i < count; ++i)
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t lane = 0; lane < kPanel<A>; lane += kLanes<A>, sums += kLanes<A>)
        (Vec<A>::loadu(sums) + (over_pixels ? Vec<A>(bias[r]) : Vec<A>::loadu(bias + i * kPanel<A> + lane)))
            .store(sums);
}

// Mean and squared deviations of the channels of a block, into a row each; panels are rounded to T first.
template <class T>
inline void store_moments(bool over_pixels, int64_t pixels, int64_t channels, Acc<T>* values, Acc<T>* to) {
  using A = Acc<T>;
  const int64_t rows = over_pixels ? channels : pixels, count = panels<A>(over_pixels ? pixels : channels);
  round_to<T>(values, count * rows * kPanel<A>);
  for (int64_t i = 0; i < count && !over_pixels; ++i)
    store_moments(values + i * rows * kPanel<A>, 0, 1, rows, std::min(kPanel<A>, channels - i * kPanel<A>), channels,
                  to + i * kPanel<A>);
  for (int64_t c = 0; c < channels && over_pixels; ++c)
    moments_of_row(values + c * kPanel<A>, rows * kPanel<A>, pixels, to + c, to + channels + c);
}

template <class T>
void output_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const bool over_pixels = !p.output.channels_last;
  const Packed<A> packed(p, false);
  Scratch<A> input(room_of_source<A>(p)), sums(room<A>(p.out_channels)), bias(panels<A>(p.out_channels) * kPanel<A>);
  BlockFactor<A> factor(p, most_channels(p), p.packed_limbs != nullptr);
  for (int64_t c = 0; c < p.out_channels; c += kPanel<A>)
    load_bias(static_cast<const T*>(p.bias), c, p.out_channels - c, bias.get() + c);
  for (int64_t item = begin; item < end; ++item) {
    const Block block(p, item);
    for (int64_t s = 0; s < p.source_count; ++s) {
      const Source& source = p.sources[s];
      const View<T> view(p, source, block, over_pixels);
      load_source(p, view, input.get());
      factor.set(over_pixels, view.rows(), view.columns(), input.get());
      multiply(over_pixels, block, source.channels, p.out_channels, factor, packed.panels_of(s), packed.limbs_of(s),
               sums.get(), s > 0);
    }
    const View<T> view(p, p.output, block, over_pixels);
    add_bias(over_pixels, view.rows(), panels<A>(view.columns()), bias.get(), sums.get());
    if (p.statistics != nullptr)
      store_moments<T>(over_pixels, block.count, p.out_channels, sums.get(),
                       static_cast<A*>(p.statistics) + (block.image * p.blocks() + block.number) * 2 * p.out_channels);
    view.store(sums.get());
  }
}

template <class T>
void input_gradient_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const bool over_pixels = !p.output.channels_last;
  const Source& source = p.sources[p.target];
  Scratch<A> grad(room<A>(p.out_channels)), sums(room<A>(source.channels)),
      values(room<A>(p.activation == Activation::kNone ? 0 : source.channels));
  const Packed<A> packed(p, true);
  BlockFactor<A> factor(p, p.out_channels, p.packed_limbs != nullptr);
  Image target = source;
  target.data = source.grad;
  for (int64_t item = begin; item < end; ++item) {
    const Block block(p, item);
    const View<T> from(p, p.output, block, over_pixels), to(p, target, block, over_pixels);
    from.load(0, panels<A>(from.columns()), grad.get());
    factor.set(over_pixels, from.rows(), from.columns(), grad.get());
    multiply(over_pixels, block, p.out_channels, source.channels, factor, packed.panels_of(p.target),
             packed.limbs_of(p.target), sums.get(), false);
    if (p.activation != Activation::kNone) {
      const View<T> view(p, source, block, over_pixels);
      view.load(0, panels<A>(view.columns()), values.get());
      for (int64_t i = 0; i < panels<A>(view.columns()) * view.panel(); i += kLanes<A>)
        times_slope(Vec<A>::loadu(sums.get() + i), Vec<A>::loadu(values.get() + i), p.activation,
                    static_cast<A>(p.negative_slope))
            .store(sums.get() + i);
    }
    to.store(sums.get());
  }
}

template <class T>
void weight_gradient_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const bool over_pixels = !p.output.channels_last;
  const int64_t output_panels = panels<A>(p.out_channels), spans = divide_up(output_panels, Problem::kSpan);
  const int64_t blocks = p.batch * p.blocks();
  const int64_t most = most_channels(p), grad_step = deep_panel<A>(p.limbs, Problem::kBlock);
  Scratch<A> input(room_of_source<A>(p)), grad(Problem::kSpan * Problem::kBlock * kPanel<A>);
  Scratch<Limb> grad_memory(Problem::kSpan * grad_step),
      input_memory(over_pixels ? panels<A>(Problem::kBlock) * left_panel<A>(p.limbs, most)
                               : panels<A>(most) * grad_step);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t group = item / spans, first = item % spans * Problem::kSpan;
    const int64_t last = std::min(first + Problem::kSpan, output_panels);
    A* part = static_cast<A*>(p.weight_parts) + group * output_panels * p.in_channels * kPanel<A>;
    const int64_t begin_block = group * blocks / p.groups, end_block = (group + 1) * blocks / p.groups;
    for (int64_t index = begin_block; index < end_block; ++index) {
      const Block block(p, index);
      const View<T> output(p, p.output, block, false);
      output.load(first, last, grad.get());
      const int64_t columns = std::min((last - first) * kPanel<A>, p.out_channels - first * kPanel<A>);
      const Limb* grad_limbs =
          split<Role::kRight>(p.limbs, block.count, columns, grad.get(), output.panel(), grad_memory.get());
      for (int64_t s = 0; s < p.source_count; ++s) {
        const Source& source = p.sources[s];
        const View<T> view(p, source, block, over_pixels);
        load_source(p, view, input.get());
        const bool limbs = grad_limbs != nullptr;
        const Limb* input_limbs =
            over_pixels
                ? split<Role::kLeft>(limbs, view.rows(), view.columns(), input.get(), view.panel(), input_memory.get())
                : split<Role::kTransposedLeft>(limbs, view.rows(), view.columns(), input.get(), view.panel(),
                                               input_memory.get());
        const int64_t step = deep_panel<A>(limbs, block.count);
        for (int64_t o = first; o < last; ++o) {
          const A* right = grad.get() + (o - first) * output.panel();
          const Limb* right_limbs = grad_limbs == nullptr ? nullptr : grad_limbs + (o - first) * step;
          A* to = part + (o * p.in_channels + source.offset) * kPanel<A>;
          const int64_t columns = p.out_channels - o * kPanel<A>;
          if (over_pixels) {
            multiply<A, false>(source.channels, columns, block.count, input.get(), view.panel(), input_limbs, right,
                               right_limbs, to, true);
            continue;
          }
          for (int64_t c = 0; c < source.channels; c += kPanel<A>)
            multiply<A, true>(std::min(kPanel<A>, source.channels - c), columns, block.count,
                              input.get() + c / kPanel<A> * view.panel(), 0,
                              input_limbs == nullptr ? nullptr : input_limbs + c / kPanel<A> * step, right, right_limbs,
                              to + c * kPanel<A>, true);
        }
      }
    }
  }
}

template <class T>
void weight_sum_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const int64_t size = p.in_channels * kPanel<A>, part = panels<A>(p.out_channels) * size;
  Scratch<A> sums(size);
  for (int64_t o = begin; o < end; ++o) {
    const A* from = static_cast<const A*>(p.weight_parts) + o * size;
    for (int64_t i = 0; i < size; i += kLanes<A>) {
      Vec<A> sum(A(0));
      for (int64_t k = 0; k < p.groups; ++k) sum = sum + Vec<A>::loadu(from + k * part + i);
      sum.store(sums.get() + i);
    }
    store_row(static_cast<T*>(p.grad_weight) + o * kPanel<A> * p.in_channels, Strides{0, p.in_channels, 0, 1},
              std::min(kPanel<A>, p.out_channels - o * kPanel<A>), p.in_channels, sums.get());
  }
}

template <class T>
constexpr pyeqgan::cpu::PointwiseKernels::Typed kernels() {
  return {kPanel<Acc<T>>,          pack_items<T, false>,     pack_items<T, true>, output_items<T>,
          input_gradient_items<T>, weight_gradient_items<T>, weight_sum_items<T>};
}

}  // namespace

namespace pyeqgan::cpu {

const PointwiseKernels PYEQGAN_TABLE(pyeqgan_pointwise) = {kernels<float>(), kernels<double>(),
                                                           kernels<c10::BFloat16>(), kernels<c10::Half>()};

}  // namespace pyeqgan::cpu
