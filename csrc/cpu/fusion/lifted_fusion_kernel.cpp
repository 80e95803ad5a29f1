// lifted_fusion on the CPU: selected patches of the base blended with matched patches of the references, and its
// gradient. A patch is a few runs of equally spaced elements in every layout, so that all share this code:
//   pixel-major      `scale` rows of scale·C neighbours
//   planar           in each plane `scale` rows of scale neighbours
//   planar, scale 1  the channels of a pixel, a plane apart ("strided")
//
// Two selected patches may have the same match. No two items write the same place, and an item adds what it
// receives in the order of the positions: the gradient needs no atomics and is the same for any number of threads.
#include "../scratch.h"
#include "../vec.h"
#include "lifted_fusion.h"

namespace {

using Problem = pyeqgan::cpu::LiftedFusion;

template <int n>
using Count = std::integral_constant<int, n>;

// What patches are addressed in: a pixel-major image, a plane, or (strided) a few planes.
template <bool strided>
class Frame {
 public:
  Frame(int64_t offset, int64_t begin, int64_t end, int64_t rows, int64_t pitch, int64_t length, int64_t step)
      : offset(offset), begin(begin), end(end), rows_(rows), pitch_(pitch), length_(length), step_(step) {}

  const int64_t offset;      // of the frame in its image
  const int64_t begin, end;  // the elements of the frame that are written

  // From one element of a run to the next.
  int64_t step() const { return strided ? step_ : 1; }

  // Calls vector(i) for whole vectors of neighbours, scalars(i, n) for n elements of a run, at offset i in a patch.
  template <class A, class Vector, class Scalars>
  void each_piece(Vector vector, Scalars scalars) const {
    for (int64_t row = 0; row < (strided ? 1 : rows_); ++row) {
      const int64_t start = row * pitch_;
      int64_t i = 0;
      if constexpr (!strided)
        for (; i + kLanes<A> <= length_; i += kLanes<A>) vector(start + i);
      for (; i + 4 <= length_; i += 4) scalars(start + i * step(), Count<4>());
      for (; i < length_; ++i) scalars(start + i * step(), Count<1>());
    }
  }

 private:
  const int64_t rows_, pitch_;   // runs of a patch, and from one to the next
  const int64_t length_, step_;  // elements of a run
};

// The part of an image that an item writes: some planes, or a band of rows.
template <bool strided>
class Slab {
 public:
  Slab(const Problem& p, int64_t item)
      : b(item / p.slabs()),
        p_(p),
        first_channel_(p.pixel_major ? 0 : item % p.slabs() * p.kChannelBlock),
        last_channel_(p.pixel_major ? p.channels : std::min(first_channel_ + p.kChannelBlock, p.channels)),
        first_row_(p.pixel_major ? item % p.slabs() * p.band_rows() : 0),
        last_row_(p.pixel_major ? std::min(first_row_ + p.band_rows(), p.rows) : p.rows),
        run_(p.scale * (p.pixel_major ? p.channels : 1)),
        patch_row_(p.columns * p.scale * run_) {}

  const int64_t b;  // the image

  // Whether the patch at position q of the grid is among what is written.
  bool holds(int64_t q) const { return q >= first_row_ * p_.columns && q < last_row_ * p_.columns; }

  // Where that patch begins in a frame.
  int64_t patch(int64_t q) const { return strided ? q : q / p_.columns * patch_row_ + q % p_.columns * run_; }

  template <class F>
  void each_frame(F f) const {
    if (p_.pixel_major) {
      f(Frame<strided>(0, first_row_ * patch_row_, last_row_ * patch_row_, p_.scale, p_.columns * run_, run_, 1));
      return;
    }
    const int64_t plane = p_.pixels();
    for (int64_t c = first_channel_; c < last_channel_; c += kPlanes) {
      const int64_t planes = std::min(kPlanes, last_channel_ - c);
      f(Frame<strided>(c * plane, 0, planes * plane, p_.scale, p_.columns * run_, strided ? planes : run_, plane));
    }
  }

 private:
  // The elements of a pixel that are handled together: more would share too few sets of the cache.
  static constexpr int64_t kPlanes = strided ? 4 : 1;

  const Problem& p_;
  const int64_t first_channel_, last_channel_, first_row_, last_row_;
  const int64_t run_, patch_row_;  // neighbours in a row of a patch; from one row of patches to the next
};

// The selected patches in a slab: for each, its offset and those of its matches, R+1 numbers. Returns how many.
template <bool strided>
int64_t selected_patches(const Problem& p, const Slab<strided>& slab, int64_t* offsets) {
  const int64_t* positions = p.positions + slab.b * p.selected;
  const int64_t* matches = p.matches + slab.b * p.references * p.selected;
  int64_t count = 0;
  for (int64_t m = 0; m < p.selected; ++m) {
    if (!slab.holds(positions[m])) continue;
    *offsets++ = slab.patch(positions[m]);
    for (int64_t r = 0; r < p.references; ++r) *offsets++ = slab.patch(matches[r * p.selected + m]);
    ++count;
  }
  return count;
}

// The matches in one reference that lie in a slab: offsets of the match and of the selected patch. Returns how many.
template <bool strided>
int64_t matched_patches(const Problem& p, const Slab<strided>& slab, int64_t r, int64_t* offsets) {
  const int64_t* positions = p.positions + slab.b * p.selected;
  const int64_t* matches = p.matches + (slab.b * p.references + r) * p.selected;
  int64_t count = 0;
  for (int64_t m = 0; m < p.selected; ++m) {
    if (!slab.holds(matches[m])) continue;
    *offsets++ = slab.patch(matches[m]);
    *offsets++ = slab.patch(positions[m]);
    ++count;
  }
  return count;
}

// Patches of the base blended with their matches.
template <class T, bool strided>
void blend(const Problem& p, const Frame<strided>& frame, const int64_t* offsets, int64_t count, const Acc<T>* weights,
           const T* base, const T* references, T* fused) {
  using A = Acc<T>;
  const int64_t step = frame.step();
  for (int64_t k = 0; k < count; ++k, offsets += p.references + 1) {
    frame.template each_piece<A>(
        [=](int64_t i) {
          Vec<A> sum = Vec<A>(weights[0]) * load(base + offsets[0] + i, kLanes<A>);
          for (int64_t r = 0; r < p.references; ++r) {
            const T* match = references + r * p.reference_step + offsets[r + 1] + i;
            sum = fmadd(Vec<A>(weights[r + 1]), load(match, kLanes<A>), sum);
          }
          store(fused + offsets[0] + i, sum, kLanes<A>);
        },
        [=, &p](int64_t i, auto n) {
          A sums[n];
          for (int j = 0; j < n; ++j) sums[j] = weights[0] * static_cast<A>(base[offsets[0] + i + j * step]);
          for (int64_t r = 0; r < p.references; ++r) {
            const T* match = references + r * p.reference_step + offsets[r + 1] + i;
            for (int j = 0; j < n; ++j) sums[j] += weights[r + 1] * static_cast<A>(match[j * step]);
          }
          for (int j = 0; j < n; ++j) fused[offsets[0] + i + j * step] = static_cast<T>(sums[j]);
        });
  }
}

// to = or += weight·from, a patch each.
template <bool add, class T, class To, bool strided>
inline void scale_patch(const Frame<strided>& frame, Acc<T> weight, const T* from, To* to) {
  using A = Acc<T>;
  const int64_t step = frame.step();
  frame.template each_piece<A>(
      [=](int64_t i) {
        const Vec<A> value = Vec<A>(weight) * load(from + i, kLanes<A>);
        store(to + i, add ? load(to + i, kLanes<A>) + value : value, kLanes<A>);
      },
      [=](int64_t i, auto n) {
        for (int j = 0; j < n; ++j) {
          const A value = weight * static_cast<A>(from[i + j * step]);
          To& target = to[i + j * step];
          target = static_cast<To>(add ? static_cast<A>(target) + value : value);
        }
      });
}

// Σ ⟨gradient of a patch, the patch that a weight multiplied⟩, added to the weight's gradient.
template <class T, bool strided>
void weight_gradients(const Problem& p, const Frame<strided>& frame, const int64_t* offsets, int64_t count,
                      const T* grad, const T* base, const T* references, double* grad_weights) {
  using A = Acc<T>;
  const int64_t step = frame.step();
  for (int64_t r = 0; r <= p.references; ++r) {
    const T* source = r == 0 ? base : references + (r - 1) * p.reference_step;
    Vec<A> sum(A(0));
    double total = 0;
    const int64_t* patch = offsets;
    for (int64_t k = 0; k < count; ++k, patch += p.references + 1) {
      const T *left = grad + patch[0], *right = source + patch[r];
      frame.template each_piece<A>(
          [&](int64_t i) { sum = fmadd(load(left + i, kLanes<A>), load(right + i, kLanes<A>), sum); },
          [&](int64_t i, auto n) {
            A piece = 0;
            for (int j = 0; j < n; ++j)
              piece += static_cast<A>(left[i + j * step]) * static_cast<A>(right[i + j * step]);
            total += piece;
          });
    }
    alignas(64) A lanes[kLanes<A>];
    sum.store(lanes);
    for (const A lane : lanes) total += lane;
    grad_weights[r] += total;
  }
}

// The gradient of a frame of one reference: every patch matched there receives those of the patches it went to.
template <class T, bool strided>
void reference_gradient(const Frame<strided>& frame, const int64_t* offsets, int64_t count, Acc<T> weight,
                        const T* grad, Acc<T>* sums, T* grad_reference) {
  using A = Acc<T>;
  T* target = grad_reference + frame.begin;
  const int64_t size = frame.end - frame.begin;
  // Summed in the accumulation type: in place where that is the image's.
  if constexpr (std::is_same_v<T, A>) sums = target;
  std::fill(sums, sums + size, A(0));
  for (int64_t k = 0; k < count; ++k, offsets += 2)
    scale_patch<true>(frame, weight, grad + offsets[1], sums + offsets[0] - frame.begin);
  if constexpr (!std::is_same_v<T, A>)
    for (int64_t i = 0; i < size; ++i) target[i] = static_cast<T>(sums[i]);
}

template <class T>
void load_weights(const Problem& p, int64_t b, Acc<T>* weights) {
  const T* from = static_cast<const T*>(p.weights) + b * (p.references + 1);
  for (int64_t r = 0; r <= p.references; ++r) weights[r] = static_cast<Acc<T>>(from[r]);
}

template <class T, bool strided>
void forward_items(const Problem& p, int64_t begin, int64_t end) {
  const int64_t image = p.pixels() * p.channels;
  Scratch<Acc<T>> weights(p.references + 1);
  Scratch<int64_t> offsets(p.selected * (p.references + 1));
  for (int64_t item = begin; item < end; ++item) {
    const Slab<strided> slab(p, item);
    load_weights<T>(p, slab.b, weights.get());
    const int64_t count = selected_patches(p, slab, offsets.get());
    const T* bases = static_cast<const T*>(p.base) + slab.b * p.base_step;
    const T* references = static_cast<const T*>(p.reference) + slab.b * p.reference_row;
    T* to = static_cast<T*>(p.fused) + slab.b * image;
    slab.each_frame([&](const Frame<strided>& frame) {
      const T* base = bases + frame.offset;
      T* fused = to + frame.offset;
      std::copy(base + frame.begin, base + frame.end, fused + frame.begin);
      blend<T>(p, frame, offsets.get(), count, weights.get(), base, references + frame.offset, fused);
    });
  }
}

template <class T, bool strided>
void backward_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const int64_t image = p.pixels() * p.channels, shares = p.references + 1;
  const bool widen = !std::is_same_v<T, A> && p.grad_references != nullptr;
  Scratch<A> weights(shares), sums(widen ? p.slab_elements() : 0);
  Scratch<int64_t> selected(p.selected * shares), matched(p.selected * 2);
  for (int64_t item = begin; item < end; ++item) {
    const Slab<strided> slab(p, item);
    load_weights<T>(p, slab.b, weights.get());
    const int64_t count = selected_patches(p, slab, selected.get());
    const T* grads = static_cast<const T*>(p.grad_fused) + slab.b * image;
    if (p.grad_base != nullptr) {
      T* to = static_cast<T*>(p.grad_base) + slab.b * image;
      slab.each_frame([&](const Frame<strided>& frame) {
        const T* grad = grads + frame.offset;
        T* grad_base = to + frame.offset;
        std::copy(grad + frame.begin, grad + frame.end, grad_base + frame.begin);
        for (int64_t k = 0; k < count; ++k) {
          const int64_t offset = selected.get()[k * shares];
          scale_patch<false>(frame, weights.get()[0], grad + offset, grad_base + offset);
        }
      });
    }
    if (p.grad_weights != nullptr) {
      double* grad_weights = p.grad_weights + item * shares;
      std::fill(grad_weights, grad_weights + shares, 0.0);
      const T* bases = static_cast<const T*>(p.base) + slab.b * p.base_step;
      const T* references = static_cast<const T*>(p.reference) + slab.b * p.reference_row;
      slab.each_frame([&](const Frame<strided>& frame) {
        weight_gradients<T>(p, frame, selected.get(), count, grads + frame.offset, bases + frame.offset,
                            references + frame.offset, grad_weights);
      });
    }
    for (int64_t r = 0; p.grad_references != nullptr && r < p.references; ++r) {
      const int64_t hits = matched_patches(p, slab, r, matched.get());
      T* to = static_cast<T*>(p.grad_references) + (slab.b * p.references + r) * image;
      slab.each_frame([&](const Frame<strided>& frame) {
        reference_gradient<T>(frame, matched.get(), hits, weights.get()[r + 1], grads + frame.offset, sums.get(),
                              to + frame.offset);
      });
    }
  }
}

template <class T>
void forward(const Problem& p, int64_t begin, int64_t end) {
  p.strided() ? forward_items<T, true>(p, begin, end) : forward_items<T, false>(p, begin, end);
}

template <class T>
void backward(const Problem& p, int64_t begin, int64_t end) {
  p.strided() ? backward_items<T, true>(p, begin, end) : backward_items<T, false>(p, begin, end);
}

template <class T>
constexpr pyeqgan::cpu::LiftedFusionKernels::Typed kernels() {
  return {forward<T>, backward<T>};
}

}  // namespace

namespace pyeqgan::cpu {

const LiftedFusionKernels PYEQGAN_TABLE(pyeqgan_lifted_fusion) = {kernels<float>(), kernels<double>(),
                                                                  kernels<c10::BFloat16>(), kernels<c10::Half>()};

}  // namespace pyeqgan::cpu
