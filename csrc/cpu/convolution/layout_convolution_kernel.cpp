// layout_conv2d on the CPU: an output pixel is a sum of rows of a table, one for each tap of its window.
//
// Layouts are made of areas, in which neighbouring windows are equal. A run of equal windows in an output row costs one
// sum forward, copied; backward its gradients are summed before they are added to the rows of the taps.
#include "../pixels.h"
#include "../scratch.h"
#include "activation.h"
#include "layout_convolution.h"

namespace {

using Problem = pyeqgan::cpu::LayoutConvolution;

// The runs of equal windows of one band after another; pixels are counted from the band's first.
class Runs {
 public:
  explicit Runs(const Problem& p)
      : p_(p),
        span_(p.layout_width + 2 * p.padding),
        first_rows_(p.kernel_height * span_),
        starts_(p.band_rows() * p.width + 1),
        taps_(p.band_rows() * p.width * p.taps()) {}

  int64_t count = 0, pixels = 0;

  int64_t begin(int64_t run) const { return starts_.get()[run]; }
  int64_t end(int64_t run) const { return starts_.get()[run + 1]; }
  // The row of the table for each tap of the run's window.
  const int64_t* taps(int64_t run) const { return taps_.get() + run * p_.taps(); }

  void find(int64_t band) {
    const int64_t first = band % p_.bands_per_image() * p_.band_rows();
    const int64_t rows = std::min(p_.band_rows(), p_.height - first);
    const int64_t* labels = p_.labels + band / p_.bands_per_image() * p_.layout_height * p_.layout_width;
    count = pixels = 0;
    for (int64_t row = first; row < first + rows; ++row) {
      for (int64_t ky = 0; ky < p_.kernel_height; ++ky)
        read(labels, row * p_.stride - p_.padding + ky, first_rows_.get() + ky * span_);
      for (int64_t j = 0; j < p_.width; ++j, ++pixels) {
        if (j > 0 && as_before(j)) continue;
        starts_.get()[count] = pixels;
        look_up(j, taps_.get() + count * p_.taps());
        ++count;
      }
    }
    starts_.get()[count] = pixels;
  }

 private:
  // A row of the padded layout: for every pixel the first of its class's rows in the table, or kNone.
  void read(const int64_t* labels, int64_t y, int64_t* to) const {
    std::fill(to, to + span_, kNone);
    if (y < 0 || y >= p_.layout_height) return;
    const int64_t* from = labels + y * p_.layout_width;
    for (int64_t x = 0; x < p_.layout_width; ++x)
      to[p_.padding + x] = from[x] == p_.ignore_index ? kNone : from[x] * p_.taps();
  }

  bool as_before(int64_t j) const {
    const int64_t* window = first_rows_.get() + j * p_.stride;
    for (int64_t ky = 0; ky < p_.kernel_height; ++ky, window += span_)
      for (int64_t kx = 0; kx < p_.kernel_width; ++kx)
        if (window[kx] != window[kx - p_.stride]) return false;
    return true;
  }

  void look_up(int64_t j, int64_t* taps) const {
    const int64_t* window = first_rows_.get() + j * p_.stride;
    int64_t tap = 0;
    for (int64_t ky = 0; ky < p_.kernel_height; ++ky, window += span_)
      for (int64_t kx = 0; kx < p_.kernel_width; ++kx, ++tap)
        taps[tap] = window[kx] == kNone ? p_.nothing() : window[kx] + tap;
  }

  static constexpr int64_t kNone = -1;

  const Problem& p_;
  const int64_t span_;
  const Scratch<int64_t> first_rows_, starts_, taps_;
};

// Calls work(first channel, channels, table of a panel) for every panel of the blocks [begin, end) of a table.
template <class A, class Work>
inline void for_each_panel(const Problem& p, void* table, int64_t begin, int64_t end, const Work& work) {
  for (int64_t c = begin * Problem::kBlock; c < std::min(end * Problem::kBlock, p.channels); c += kPanel<A>)
    work(c, std::min(kPanel<A>, p.channels - c), static_cast<A*>(table) + c * p.rows());
}

// The weight as an image of one row: its pixels are the classes' taps.
inline Strides weight_strides(const Problem& p) { return {0, p.nothing(), 0, 1}; }

template <class T>
void pack(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  for_each_panel<A>(p, p.table, begin, end, [&](int64_t c, int64_t channels, A* table) {
    load_row(static_cast<const T*>(p.weight) + c * p.nothing(), weight_strides(p), channels, p.nothing(), table);
    std::fill_n(table + p.nothing() * kPanel<A>, kPanel<A>, A(0));
    load_bias(static_cast<const T*>(p.bias), c, channels, table + (p.nothing() + 1) * kPanel<A>);
  });
}

// Where the first pixel of a band lies, in one channel.
inline int64_t place(const Problem& p, const Strides& s, int64_t band, int64_t channel) {
  return band / p.bands_per_image() * s.b + band % p.bands_per_image() * p.band_rows() * s.h + channel * s.c;
}

template <class T>
void forward(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const A slope = static_cast<A>(p.negative_slope);
  const Scratch<A> pixels(p.band_rows() * p.width * kPanel<A>);
  const int64_t taps = p.taps();
  Runs runs(p);
  for (int64_t band = begin; band < end; ++band) {
    runs.find(band);
    for_each_panel<A>(p, p.table, 0, p.blocks(), [&](int64_t c, int64_t channels, const A* table) {
      const A* bias = table + (p.nothing() + 1) * kPanel<A>;
      for (int64_t run = 0; run < runs.count; ++run) {
        Vec<A> low = Vec<A>::loadu(bias), high = Vec<A>::loadu(bias + kLanes<A>);
        const int64_t* tap = runs.taps(run);
        for (int64_t t = 0; t < taps; ++t) {
          low = low + Vec<A>::loadu(table + tap[t] * kPanel<A>);
          high = high + Vec<A>::loadu(table + tap[t] * kPanel<A> + kLanes<A>);
        }
        low = activate(low, p.activation, slope), high = activate(high, p.activation, slope);
        for (A* to = pixels.get() + runs.begin(run) * kPanel<A>; to < pixels.get() + runs.end(run) * kPanel<A>;
             to += kPanel<A>) {
          low.store(to);
          high.store(to + kLanes<A>);
        }
      }
      store_row(static_cast<T*>(p.y) + place(p, p.y_strides, band, c), p.y_strides, channels, runs.pixels,
                pixels.get());
    });
  }
}

template <class A>
inline void add(A* to, const Vec<A>& low, const Vec<A>& high) {
  (Vec<A>::loadu(to) + low).store(to);
  (Vec<A>::loadu(to + kLanes<A>) + high).store(to + kLanes<A>);
}

// The gradients of a band's sums before the activation, one panel of channels.
template <class T>
void load_gradients(const Problem& p, int64_t band, int64_t c, int64_t channels, int64_t pixels, Acc<T>* grads,
                    Acc<T>* values) {
  using A = Acc<T>;
  const auto load = [&](const void* image, const Strides& s, A* to) {
    load_row(static_cast<const T*>(image) + place(p, s, band, c), s, channels, pixels, to);
  };
  load(p.grad, p.grad_strides, grads);
  if (p.y == nullptr) return;
  load(p.y, p.y_strides, values);
  for (int64_t i = 0; i < pixels * kPanel<A>; i += kLanes<A>)
    times_slope_at(Vec<A>::loadu(grads + i), Vec<A>::loadu(values + i), p.activation, static_cast<A>(p.negative_slope))
        .store(grads + i);
}

template <class T>
void backward(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const int64_t taps = p.taps(), size = p.band_rows() * p.width * kPanel<A>;
  const Scratch<A> grads(size), values(p.y == nullptr ? 0 : size);
  Runs runs(p);
  for (int64_t part = begin; part < end; ++part) {
    A* sums = static_cast<A*>(p.sums) + part * p.table_size();
    std::fill_n(sums, p.table_size(), A(0));
    const int64_t last = p.bands() * (part + 1) / p.parts();
    for (int64_t band = p.bands() * part / p.parts(); band < last; ++band) {
      runs.find(band);
      for_each_panel<A>(p, sums, 0, p.blocks(), [&](int64_t c, int64_t channels, A* table) {
        load_gradients<T>(p, band, c, channels, runs.pixels, grads.get(), values.get());
        A* bias = table + (p.nothing() + 1) * kPanel<A>;
        for (int64_t run = 0; run < runs.count; ++run) {
          Vec<A> low(A(0)), high(A(0));
          for (int64_t j = runs.begin(run); j < runs.end(run); ++j) {
            low = low + Vec<A>::loadu(grads.get() + j * kPanel<A>);
            high = high + Vec<A>::loadu(grads.get() + j * kPanel<A> + kLanes<A>);
          }
          const int64_t* tap = runs.taps(run);
          for (int64_t t = 0; t < taps; ++t) add(table + tap[t] * kPanel<A>, low, high);
          add(bias, low, high);
        }
      });
    }
  }
}

template <class T>
void unpack(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  for_each_panel<A>(p, p.sums, begin, end, [&](int64_t c, int64_t channels, A* total) {
    for (int64_t part = 1; part < p.parts(); ++part) {
      const A* sums = total + part * p.table_size();
      for (int64_t i = 0; i < p.rows() * kPanel<A>; i += kLanes<A>)
        (Vec<A>::loadu(total + i) + Vec<A>::loadu(sums + i)).store(total + i);
    }
    if (p.grad_weight != nullptr)
      store_row(static_cast<T*>(p.grad_weight) + c * p.nothing(), weight_strides(p), channels, p.nothing(), total);
    if (p.grad_bias != nullptr)
      for (int64_t i = 0; i < channels; ++i)
        static_cast<T*>(p.grad_bias)[c + i] = static_cast<T>(total[(p.nothing() + 1) * kPanel<A> + i]);
  });
}

template <class T>
constexpr pyeqgan::cpu::LayoutConvolutionKernels::Typed kernels() {
  return {pack<T>, forward<T>, backward<T>, unpack<T>};
}

}  // namespace

namespace pyeqgan::cpu {

const LayoutConvolutionKernels PYEQGAN_TABLE(pyeqgan_layout_convolution) = {
    kernels<float>(), kernels<double>(), kernels<c10::BFloat16>(), kernels<c10::Half>()};

}  // namespace pyeqgan::cpu
