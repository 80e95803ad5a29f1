// equalization_consistency_loss on the CPU: sums of the pixels' distances, and their gradients.
//
// Everything is computed in double, which costs nothing beside the memory that is read: no square overflows, and the
// order of the sums does not show. The backward pass finds the norms of a block of pixels again rather than have them
// saved; the block is still in the cache when its gradients are written.
#include <cmath>

#include "../scratch.h"
#include "../vec.h"
#include "equalization_consistency_loss.h"

namespace {

using pyeqgan::cpu::Distance;
using Scale = pyeqgan::cpu::ConsistencyScale;

// Partial sums of a sum over neighbouring elements: a compiler may not reorder it, but vectorises this many.
constexpr int64_t kParts = 16;

inline double total(const double* parts) {
  double sum = 0;
  for (int64_t l = 0; l < kParts; ++l) sum += parts[l];
  return sum;
}

// The pixels [first, first + count) of an image, one item.
struct Block {
  Block(const Scale& s, int64_t item)
      : image(item / s.blocks() * s.channels * s.pixels),
        first(item % s.blocks() * s.block()),
        count(std::min(s.block(), s.pixels - first)) {}

  int64_t image, first, count;
};

// For every pixel of a block ⟨e, d⟩, ⟨e, e⟩ and ⟨d, d⟩ over its channels.
class Products {
 public:
  explicit Products(int64_t pixels) : dots(pixels), equalized(pixels), decoded(pixels) {}

  Scratch<double> dots, equalized, decoded;

  template <class T>
  void compute(const Scale& s, const Block& block) {
    const T* e = static_cast<const T*>(s.equalized) + block.image;
    const T* d = static_cast<const T*>(s.decoded) + block.image;
    s.pixel_major ? along_channels(s, block, e + block.first * s.channels, d + block.first * s.channels)
                  : along_pixels(s, block, e + block.first, d + block.first);
  }

 private:
  template <class T>
  void along_pixels(const Scale& s, const Block& block, const T* e, const T* d) {
    double *ed = dots.get(), *ee = equalized.get(), *dd = decoded.get();
    for (double* sums : {ed, ee, dd}) std::fill_n(sums, block.count, 0.0);
    for (int64_t c = 0; c < s.channels; ++c, e += s.pixels, d += s.pixels) {
      for (int64_t i = 0; i < block.count; ++i) {
        const double a = static_cast<Acc<T>>(e[i]), b = static_cast<Acc<T>>(d[i]);
        ed[i] += a * b;
        ee[i] += a * a;
        dd[i] += b * b;
      }
    }
  }

  template <class T>
  void along_channels(const Scale& s, const Block& block, const T* e, const T* d) {
    for (int64_t i = 0; i < block.count; ++i, e += s.channels, d += s.channels) {
      double ed[kParts] = {}, ee[kParts] = {}, dd[kParts] = {};
      for (int64_t c = 0; c < s.channels; c += kParts) {
        for (int64_t l = 0; l < std::min(kParts, s.channels - c); ++l) {
          const double a = static_cast<Acc<T>>(e[c + l]), b = static_cast<Acc<T>>(d[c + l]);
          ed[l] += a * b;
          ee[l] += a * a;
          dd[l] += b * b;
        }
      }
      dots.get()[i] = total(ed), equalized.get()[i] = total(ee), decoded.get()[i] = total(dd);
    }
  }
};

// As torch.nn.functional.cosine_similarity clamps a norm. NaN stays NaN.
inline double clamped(double norm) { return norm < 1e-8 ? 1e-8 : norm; }

template <class T>
double cosine_distances(const Scale& s, const Block& block, Products& products) {
  products.compute<T>(s, block);
  double sum = 0;
  for (int64_t i = 0; i < block.count; ++i) {
    const double e = clamped(std::sqrt(products.equalized.get()[i])), d = clamped(std::sqrt(products.decoded.get()[i]));
    sum += 1 - products.dots.get()[i] / e / d;
  }
  return sum;
}

template <class T>
double differences(const Scale& s, const Block& block) {
  const T* e = static_cast<const T*>(s.equalized) + block.first;
  const T* d = static_cast<const T*>(s.decoded) + block.first;
  double sums[kParts] = {};
  for (int64_t i = 0; i < block.count; i += kParts) {
    for (int64_t l = 0; l < std::min(kParts, block.count - i); ++l) {
      const double difference = double(static_cast<Acc<T>>(e[i + l])) - double(static_cast<Acc<T>>(d[i + l]));
      sums[l] += s.distance == Distance::kL1 ? std::abs(difference) : difference * difference;
    }
  }
  return total(sums);
}

// Turns the products of a block into the factors of the gradients: of 1 − cos by e it is dots·d + equalized·e, by d it
// is dots·e + decoded·d. As in torch a clamped norm passes its gradient on, and a norm of 0 has none.
void gradient_factors(const Scale& s, const Block& block, Products& products) {
  double *dots = products.dots.get(), *equalized = products.equalized.get(), *decoded = products.decoded.get();
  for (int64_t i = 0; i < block.count; ++i) {
    const double e_norm = std::sqrt(equalized[i]), d_norm = std::sqrt(decoded[i]);
    const double e = clamped(e_norm), d = clamped(d_norm), cosine = dots[i] / e / d;
    dots[i] = -s.grad / e / d;
    equalized[i] = e_norm == 0 ? 0 : s.grad * cosine / e / e_norm;
    decoded[i] = d_norm == 0 ? 0 : s.grad * cosine / d / d_norm;
  }
}

// gradient = others·other + owns·own for the pixels of a block, others and owns being one factor a pixel.
template <bool pixel_major, class T>
void write_gradient(const Scale& s, const Block& block, const double* others, const double* owns, const void* other_,
                    const void* own_, void* gradient_) {
  const int64_t outer = pixel_major ? block.count : s.channels, inner = pixel_major ? s.channels : block.count;
  for (int64_t j = 0; j < outer; ++j) {
    const int64_t start = block.image + (pixel_major ? (block.first + j) * inner : j * s.pixels + block.first);
    const T* other = static_cast<const T*>(other_) + start;
    const T* own = static_cast<const T*>(own_) + start;
    T* gradient = static_cast<T*>(gradient_) + start;
    for (int64_t i = 0; i < inner; ++i) {
      const int64_t pixel = pixel_major ? j : i;
      const double value = others[pixel] * static_cast<Acc<T>>(other[i]) + owns[pixel] * static_cast<Acc<T>>(own[i]);
      gradient[i] = static_cast<T>(static_cast<Acc<T>>(value));
    }
  }
}

template <class T>
void cosine_gradients(const Scale& s, const Block& block, Products& products) {
  products.compute<T>(s, block);
  gradient_factors(s, block, products);
  const auto write = s.pixel_major ? write_gradient<true, T> : write_gradient<false, T>;
  const double* dots = products.dots.get();
  if (s.grad_equalized != nullptr)
    write(s, block, dots, products.equalized.get(), s.decoded, s.equalized, s.grad_equalized);
  if (s.grad_decoded != nullptr) write(s, block, dots, products.decoded.get(), s.equalized, s.decoded, s.grad_decoded);
}

template <class T>
void difference_gradients(const Scale& s, const Block& block) {
  const T* e = static_cast<const T*>(s.equalized) + block.first;
  const T* d = static_cast<const T*>(s.decoded) + block.first;
  T* grad_e = static_cast<T*>(s.grad_equalized) + block.first;
  T* grad_d = static_cast<T*>(s.grad_decoded) + block.first;
  for (int64_t i = 0; i < block.count; ++i) {
    const double difference = double(static_cast<Acc<T>>(e[i])) - double(static_cast<Acc<T>>(d[i]));
    const double slope = s.distance == Distance::kL2 ? 2 * difference
                         : difference > 0            ? 1
                         : difference < 0            ? -1
                                                     : difference;  // 0 or NaN
    const Acc<T> value = static_cast<Acc<T>>(s.grad * slope);
    if (s.grad_equalized != nullptr) grad_e[i] = static_cast<T>(value);
    if (s.grad_decoded != nullptr) grad_d[i] = static_cast<T>(-value);
  }
}

template <class T>
void forward(const Scale& s, double* sums, int64_t begin, int64_t end) {
  const bool cosine = s.distance == Distance::kCosine;
  Products products(cosine ? s.block() : 0);
  for (int64_t item = begin; item < end; ++item) {
    const Block block(s, item);
    sums[item] = cosine ? cosine_distances<T>(s, block, products) : differences<T>(s, block);
  }
}

template <class T>
void backward(const Scale& s, int64_t begin, int64_t end) {
  const bool cosine = s.distance == Distance::kCosine;
  Products products(cosine ? s.block() : 0);
  for (int64_t item = begin; item < end; ++item) {
    const Block block(s, item);
    cosine ? cosine_gradients<T>(s, block, products) : difference_gradients<T>(s, block);
  }
}

template <class T>
constexpr pyeqgan::cpu::ConsistencyKernels::Typed kernels() {
  return {forward<T>, backward<T>};
}

}  // namespace

namespace pyeqgan::cpu {

const ConsistencyKernels PYEQGAN_TABLE(pyeqgan_consistency) = {kernels<float>(), kernels<double>(),
                                                               kernels<c10::BFloat16>(), kernels<c10::Half>()};

}  // namespace pyeqgan::cpu
