// Backward sweep of contrastive_loss: the scores again, G of them, and its product with the rows of the other side.
//
// G_ij is the gradient of the loss by s_ij. A block owns 128 rows of one side, a panel of their channels and one
// segment of the other side; rows of queries gather Σ_j G_ij k_j, those of keys Σ_i G_ij q_i, and in self-contrast one
// sweep gathers both: (G + Gᵀ) q.
#pragma once

#include "contrastive_sweep.cuh"
#include "reduce.cuh"

namespace pyeqgan::contrastive {
namespace {

struct Upstream {
  Setting p;
  Side queries;
  const float *grad_loss, *boundary, *weight;
  float largest;  // what the largest |G| is brought to, so that 16 bits hold it
  float* scale;   // [0] = [1] / τ and [1]: what incoming gradients are divided by
};

// The incoming gradient of a sorted query, 0 where nothing flows.
__device__ inline float flowing(const Upstream& u, int row) {
  const int place = u.queries.place[row];
  const bool flows = u.queries.positives[row] > 0 && (u.p.supcon || u.boundary[place] != -INFINITY);
  return flows ? u.grad_loss[place] : 0.0f;
}

// By one block.
__global__ void __launch_bounds__(THREADS) measure_upstream(Upstream u) {
  float size = 0.0f;
  for (int64_t row = threadIdx.x; row < *u.queries.used; row += THREADS)
    size = fmaxf(size, fabsf(flowing(u, static_cast<int>(row))));
  size = join_of_block<THREADS>(size, [](float a, float b) { return fmaxf(a, b); });
  if (threadIdx.x != 0) return;
  const float scale = (size > 0.0f && size < INFINITY ? size : 1.0f) / u.largest;
  u.scale[0] = scale / u.p.temperature();
  u.scale[1] = scale;
}

// With e = e^(s − B) a query's row of G is share·e − [positive]·pull in supcon; in per_positive share·e on negatives
// and −pull / (1 + e) on positives. Shift is B; if scores are bounded e^(−B), and share holds this factor, too. All are
// multiplied by √τ, which the factors of the rows are too small by.
__global__ void __launch_bounds__(THREADS) prepare_terms(Upstream u) {
  const Side& side = u.queries;
  const int64_t row = int64_t{blockIdx.x} * THREADS + threadIdx.x;
  if (row >= side.padded) return;
  const bool bounded = u.p.bounded();
  const float grad = row < *side.used ? flowing(u, static_cast<int>(row)) : 0.0f;
  float share = 0.0f, shift = bounded ? 0.0f : INFINITY, pull = 0.0f;
  if (grad != 0.0f) {
    const int place = side.place[row];
    const float each = grad / u.scale[1] * sqrtf(u.p.temperature());
    pull = each / static_cast<float>(side.positives[row]);
    share = u.p.supcon ? each : pull * u.weight[place];
    shift = bounded ? expf(-u.boundary[place]) : u.boundary[place];
    if (bounded) share *= shift;
  }
  side.share[row] = share;
  side.shift[row] = shift;
  side.pull[row] = pull;
}

struct Backward {
  Setting p;
  Side own, other;
  Plan plan;
  bool of_keys;  // the own rows are keys; if single they are both
  float* sums;   // (segments,padded,width)
};

struct Terms {
  float share, shift, pull;
};

// power: e^s if bounded.
template <typename T, bool BOUNDED>
__device__ float gradient(float s, float power, const Terms& t, bool alike, bool supcon) {
  if (!BOUNDED) power = exponential<T>(s - t.shift);
  if (!alike) return t.share * power;
  return supcon ? t.share * power - t.pull : __fdividef(-t.pull, 1.0f + (BOUNDED ? power * t.shift : power));
}

// A tile of pairs that are all of different labels and all count.
struct AllNegative {
  __device__ static constexpr bool is_alike(int, int) { return false; }
  __device__ static constexpr bool is_excluded(int, int) { return false; }
};

// Makes gradients of the products in s, each multiplied by the factor of its column.
template <typename T, bool BOUNDED, typename Pairs>
__device__ void differentiate(const Backward& b, const Own& own, const Pairs& pairs, int first, Scores& s,
                              const Tile& tile) {
  const bool by_rows = !b.of_keys, by_columns = b.of_keys || b.p.single, supcon = b.p.supcon;
  Terms row[2] = {};  // read anew for each tile: registers are short
  if (by_rows) {
#pragma unroll
    for (int r = 0; r < 2; ++r) row[r] = {b.own.share[own.row(r)], b.own.shift[own.row(r)], b.own.pull[own.row(r)]};
  }
  for_each_column([&](int j, int e, int c) {
    const float factor = tile.number(0, c);
    Terms column{};
    if (by_columns) column = {tile.number(1, c), tile.number(2, c), tile.number(3, c)};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float& element = s[j][2 * r + e];
      const float score = element * (own.factor[r] * factor);
      const float power = BOUNDED ? exponential<T>(score) : 0.0f;
      const bool alike = pairs.is_alike(r, first + c);
      float g = 0.0f;
      if (by_rows) g += gradient<T, BOUNDED>(score, power, row[r], alike, supcon);
      if (by_columns) g += gradient<T, BOUNDED>(score, power, column, alike, supcon);
      element = pairs.is_excluded(r, first + c) ? 0.0f : g * factor;
    }
  });
}

template <typename T>
__global__ void __launch_bounds__(THREADS, 1) sum_gradients(Backward b) {
  const Side& side = b.own;
  int64_t block = blockIdx.x;
  const int first_row = take(block, b.plan.row_blocks) * ROWS, panel = take(block, panels_of(side.chunks));
  if (first_row >= *side.used) return;
  const Walk walk(side, b.other, b.p.single, first_row, static_cast<int>(block), b.plan.span);
  const Own own(walk);
  Loader loader(side, b.other, b.of_keys || b.p.single, b.plan.buffers);
  const int chunks = loader.chunks_of(panel);
  const bool bounded = b.p.bounded();
  typename Products<T>::Sums sums = {};
  sweep<T>(loader, first_row, walk.first, walk.stop, walk.stop, walk.stop, b.plan.buffers, panel,
           [&](int first, Scores& s, const Tile& tile) {
             const auto differentiate_pairs = [&](const auto& pairs) {
               if (bounded) {
                 differentiate<T, true>(b, own, pairs, first, s, tile);
               } else {
                 differentiate<T, false>(b, own, pairs, first, s, tile);
               }
             };
             if (walk.is_mixed(first)) {
               differentiate_pairs(Meeting(walk, own));
             } else {
               differentiate_pairs(AllNegative{});
             }
             Products<T>::add_gradients(sums, s, tile.rows, chunks);
           });
  constexpr int CHANNELS = CHUNK / static_cast<int>(sizeof(T));  // of a chunk
  const int64_t width = int64_t{side.chunks} * CHANNELS;
#pragma unroll
  for (int group = 0; group < Products<T>::CHANNELS / 8; ++group) {
    if (group * 8 / CHANNELS >= chunks) break;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float* const line = b.sums + (block * side.padded + own.row(r)) * width + panel * Products<T>::CHANNELS;
      *reinterpret_cast<float2*>(line + Products<T>::channel(group, 0)) =
          float2{sums[group][2 * r], sums[group][2 * r + 1]};
    }
  }
}

struct Slopes {
  Setting p;
  const float* slopes;
  int count;
  float* grad_temperature;
};

// By one block. Σ row·(its gradient) counts each s = q·k/τ once; in self-contrast, where a row is both, twice.
__global__ void __launch_bounds__(THREADS) finish_temperature(Slopes s) {
  double sum = 0.0;
  for (int64_t row = threadIdx.x; row < s.count; row += THREADS) sum += static_cast<double>(s.slopes[row]);
  sum = sum_of_block<THREADS>(sum);
  if (threadIdx.x == 0)
    *s.grad_temperature = static_cast<float>(-sum / static_cast<double>(s.p.temperature()) / (s.p.single ? 2.0 : 1.0));
}

}  // namespace
}  // namespace pyeqgan::contrastive
