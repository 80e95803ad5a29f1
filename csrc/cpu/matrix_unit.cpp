#include "matrix_unit.h"

#include <algorithm>

#if defined(__AMX_BF16__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace pyeqgan::cpu {

bool has_matrix_unit() {
  static const bool granted = [] {
    if (!__builtin_cpu_supports("amx-bf16") || !__builtin_cpu_supports("avx512bf16")) return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return granted;
}

namespace matrix_unit {
namespace {

constexpr int64_t kRowBytes = kDepth * 2;

// The largest absolute value of what a tile was made of.
class Range {
 public:
  void see(__m512 x) { largest_ = _mm512_max_ps(_mm512_abs_ps(x), largest_); }  // of a NaN and x, max is x

  // Whether a tile's numbers are in range; starts anew.
  bool end_tile() {
    const float largest = _mm512_reduce_max_ps(largest_);
    largest_ = _mm512_setzero_ps();
    return largest == 0 || (largest >= kSmallest && largest <= kLargest);
  }

 private:
  __m512 largest_ = _mm512_setzero_ps();
};

// The next limb of 32 numbers, which is taken from them: the first 16 numbers of it are those of `low`.
inline __m512i take_limb(__m512& low, __m512& high) {
  const __m512i limb = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
  const auto widen = [](__m256i half) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  };
  low = _mm512_sub_ps(low, widen(_mm512_castsi512_si256(limb)));
  high = _mm512_sub_ps(high, widen(_mm512_extracti64x4_epi64(limb, 1)));
  return limb;
}

// Row i of a 16 × 16 matrix of 32-bit numbers becomes its column i.
inline void transpose(__m512i* rows) {
  for (int round = 0; round < 4; ++round) {
    __m512i shuffled[16];
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      shuffled[2 * i] = _mm512_permutex2var_epi32(rows[i], low, rows[i + 8]);
      shuffled[2 * i + 1] = _mm512_permutex2var_epi32(rows[i], high, rows[i + 8]);
    }
    std::copy(shuffled, shuffled + 16, rows);
  }
}

template <bool transposed>
inline Limb* store_tiles(__m512i (&tile)[kLimbs][kTile], Limb* to) {
  for (int limb = 0; limb < kLimbs; ++limb, to += kTileSize) {
    if constexpr (transposed) transpose(tile[limb]);
    for (int64_t i = 0; i < kTile; ++i) _mm512_store_si512(to + i * kDepth, tile[limb][i]);
  }
  return to;
}

struct Columns {
  explicit Columns(int64_t columns) : low(mask(columns)), high(mask(columns - 16)) {}
  static __mmask16 mask(int64_t n) { return static_cast<__mmask16>((1u << std::clamp<int64_t>(n, 0, 16)) - 1); }
  __mmask16 low, high;
};

// Tiles of rows. Transposed, the rows of an only pair of tiles are columns of a right factor.
template <bool transposed>
bool split_rows(int64_t rows, const Columns& columns, const float* panel, int64_t step, Limb* to) {
  bool in_range = true;
  Range range;
  for (int64_t first = 0; first < (transposed ? kDepth : rows); first += kTile) {
    __m512i tile[kLimbs][kTile];
    for (int64_t r = 0; r < kTile; ++r) {
      const float* row = panel + (first + r) * step;
      __m512 low = _mm512_setzero_ps(), high = low;
      if (first + r < rows) {
        low = _mm512_maskz_loadu_ps(columns.low, row);
        high = _mm512_maskz_loadu_ps(columns.high, row + 16);
        range.see(low), range.see(high);
      }
#pragma GCC unroll 2
      for (int limb = 0; limb < kLimbs; ++limb) tile[limb][r] = take_limb(low, high);
    }
    to = store_tiles<transposed>(tile, to);
    in_range &= range.end_tile();
  }
  return in_range;
}

// Two rows of a panel, interleaved: the pairs that the unit multiplies at a time.
inline __m512i interleave(__m512i limb) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, limb);
}

// Tiles of pairs of rows: as right factor; transposed, as left factor.
template <bool transposed>
bool split_pairs(int64_t rows, const Columns& columns, const float* panel, int64_t step, Limb* to) {
  bool in_range = true;
  Range range;
  for (int64_t first = 0; first < rows; first += kDepth) {
    for (const int64_t half : {0, 1}) {
      const __mmask16 lanes = half == 0 ? columns.low : columns.high;
      __m512i tile[kLimbs][kTile];
      for (int64_t pair = 0; pair < kTile; ++pair) {
        const float* row = panel + (first + 2 * pair) * step + 16 * half;
        __m512 even = _mm512_setzero_ps(), odd = even;
        if (first + 2 * pair < rows) even = _mm512_maskz_loadu_ps(lanes, row);
        if (first + 2 * pair + 1 < rows) odd = _mm512_maskz_loadu_ps(lanes, row + step);
        range.see(even), range.see(odd);
#pragma GCC unroll 2
        for (int limb = 0; limb < kLimbs; ++limb) tile[limb][pair] = interleave(take_limb(even, odd));
      }
      to = store_tiles<transposed>(tile, to);
      in_range &= range.end_tile();
    }
  }
  return in_range;
}

// The tiles' sizes: sums 0 to 3 in two rows of two, two left factors and two right ones. The last rows may be fewer.
class Configuration {
 public:
  ~Configuration() { _tile_release(); }

  void set(int64_t upper_rows, int64_t lower_rows) {
    if (upper_ == upper_rows && lower_ == lower_rows) return;
    upper_ = upper_rows, lower_ = lower_rows;
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } sizes;
    const int64_t rows[] = {upper_rows, upper_rows, lower_rows, lower_rows, upper_rows, lower_rows, kTile, kTile};
    for (int i = 0; i < 8; ++i) sizes.bytes[i] = kRowBytes, sizes.rows[i] = static_cast<uint8_t>(rows[i]);
    _tile_loadconfig(&sizes);
  }

 private:
  int64_t upper_ = 0, lower_ = 0;
};

// Depth that is summed before it meets the rest: the small products first, which so keep their precision.
constexpr int64_t kRun = 4;  // steps

// Products of limbs; each shares a factor with the one before, which is loaded. That of both second limbs is left out.
struct Pair {
  int left, right;
};
constexpr Pair kPairs[] = {{1, 0}, {0, 0}, {0, 1}};

inline void add_tile(const float* tile, int64_t rows, float* c, int64_t step) {
  for (int64_t r = 0; r < rows; ++r, c += step)
    _mm512_storeu_ps(c, _mm512_add_ps(_mm512_loadu_ps(c), _mm512_load_ps(tile + r * kTile)));
}

template <bool tall, bool wide>
inline void multiply_tiles(int64_t count, const Limb* left, int64_t left_step, const Limb* right, int64_t upper,
                           int64_t lower, float* c, int64_t row, bool add) {
  _tile_zero(0);
  if constexpr (wide) _tile_zero(1);
  if constexpr (tall) _tile_zero(2);
  if constexpr (tall && wide) _tile_zero(3);
  for (int64_t k = 0; k < count; ++k, left += left_step, right += 2 * kBlock) {
    Pair loaded{-1, -1};
#pragma GCC unroll 3
    for (const Pair pair : kPairs) {
      if (pair.left != loaded.left) {
        _tile_loadd(4, left + pair.left * kTileSize, kRowBytes);
        if constexpr (tall) _tile_loadd(5, left + kBlock + pair.left * kTileSize, kRowBytes);
      }
      if (pair.right != loaded.right) {
        _tile_loadd(6, right + pair.right * kTileSize, kRowBytes);
        if constexpr (wide) _tile_loadd(7, right + kBlock + pair.right * kTileSize, kRowBytes);
      }
      loaded = pair;
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (wide) _tile_dpbf16ps(1, 4, 7);
      if constexpr (tall) _tile_dpbf16ps(2, 5, 6);
      if constexpr (tall && wide) _tile_dpbf16ps(3, 5, 7);
    }
  }
  float* lower_c = c + kTile * row;
  if (!add) {
    _tile_stored(0, c, row * 4);
    if constexpr (wide) _tile_stored(1, c + kTile, row * 4);
    if constexpr (tall) _tile_stored(2, lower_c, row * 4);
    if constexpr (tall && wide) _tile_stored(3, lower_c + kTile, row * 4);
    return;
  }
  alignas(64) float sums[4][kTile * kTile];
  _tile_stored(0, sums[0], 64);
  if constexpr (wide) _tile_stored(1, sums[1], 64);
  if constexpr (tall) _tile_stored(2, sums[2], 64);
  if constexpr (tall && wide) _tile_stored(3, sums[3], 64);
  add_tile(sums[0], upper, c, row);
  if constexpr (wide) add_tile(sums[1], upper, c + kTile, row);
  if constexpr (tall) add_tile(sums[2], lower, lower_c, row);
  if constexpr (tall && wide) add_tile(sums[3], lower, lower_c + kTile, row);
}

template <bool wide>
void multiply(int64_t rows, int64_t depth, const Limb* left, int64_t left_step, const Limb* right, float* c,
              int64_t row, bool add) {
  Configuration configuration;
  const int64_t all = steps(depth);
  for (int64_t first = 0; first < all; first += kRun, add = true) {
    const int64_t count = std::min(kRun, all - first);
    const Limb* b = right + first * 2 * kBlock;
    for (int64_t i = 0; i < rows; i += 2 * kTile) {
      const Limb* a = left + first * left_step + i / kTile * kBlock;
      const int64_t upper = std::min(kTile, rows - i), lower = std::min(kTile, rows - i - upper);
      configuration.set(upper, lower > 0 ? lower : kTile);
      lower > 0 ? multiply_tiles<true, wide>(count, a, left_step, b, upper, lower, c + i * row, row, add)
                : multiply_tiles<false, wide>(count, a, left_step, b, upper, lower, c + i * row, row, add);
    }
  }
}

}  // namespace

bool split_left(int64_t rows, int64_t columns, const float* panel, int64_t row, Limb* to) {
  return split_rows<false>(rows, Columns(columns), panel, row, to);
}

bool split_transposed_left(int64_t rows, int64_t columns, const float* panel, int64_t row, Limb* to) {
  return split_pairs<true>(rows, Columns(columns), panel, row, to);
}

bool split_right(int64_t rows, int64_t columns, const float* panel, int64_t row, Limb* to) {
  return split_pairs<false>(rows, Columns(columns), panel, row, to);
}

bool split_transposed_right(int64_t rows, int64_t columns, const float* panel, int64_t row, Limb* to) {
  return split_rows<true>(rows, Columns(columns), panel, row, to);
}

void product(int64_t rows, int64_t columns, int64_t depth, const Limb* left, int64_t left_step, const Limb* right,
             float* c, int64_t row, bool add) {
  columns > kTile ? multiply<true>(rows, depth, left, left_step, right, c, row, add)
                  : multiply<false>(rows, depth, left, left_step, right, c, row, add);
}

}  // namespace matrix_unit
}  // namespace pyeqgan::cpu

#else

namespace pyeqgan::cpu {

bool has_matrix_unit() { return false; }

namespace matrix_unit {

bool split_left(int64_t, int64_t, const float*, int64_t, Limb*) { return false; }
bool split_transposed_left(int64_t, int64_t, const float*, int64_t, Limb*) { return false; }
bool split_right(int64_t, int64_t, const float*, int64_t, Limb*) { return false; }
bool split_transposed_right(int64_t, int64_t, const float*, int64_t, Limb*) { return false; }
void product(int64_t, int64_t, int64_t, const Limb*, int64_t, const Limb*, float*, int64_t, bool) {}

}  // namespace matrix_unit
}  // namespace pyeqgan::cpu

#endif
