// Forward sweeps of contrastive_loss: the log-sum-exp of every query, then the sums over its positives.
//
// A block owns 128 queries and one segment of the keys; segments are added afterwards, in order.
#pragma once

#include "contrastive_sweep.cuh"

namespace pyeqgan::contrastive {
namespace {

constexpr float LOWEST = -3e38f;  // finite: −∞ less it is no NaN

struct Forward {
  Setting p;
  Side queries, keys;
  Plan plan;
  float* partial[2];  // (segments,padded): the largest s and Σ e^(s − it); then Σ_P softplus(B − s), Σ_P sigmoid(B − s)
  float* scores;      // (segments,padded), supcon: Σ_P s
  float* boundaries;  // (padded): B of the sorted queries
  float *loss, *boundary, *weight;
  int64_t* count;
};

__device__ inline Walk walk_of(const Forward& f) {
  int64_t block = blockIdx.x;
  const int first_row = take(block, f.plan.row_blocks) * ROWS;
  return Walk(f.queries, f.keys, f.p.single, first_row, static_cast<int>(block), f.plan.span);
}

// Of the four threads that share a row, joined in one order.
template <typename Join>
__device__ void join_quad(float& value, Join join) {
  value = join(value, __shfl_xor_sync(~0u, value, 1));
  value = join(value, __shfl_xor_sync(~0u, value, 2));
}

__device__ inline float sum_of_quad(float value) {
  join_quad(value, [](float a, float b) { return a + b; });
  return value;
}

// Over the negatives, in supcon over all keys that count.
template <typename T>
__global__ void __launch_bounds__(THREADS, 1) sum_exponentials(Forward f) {
  if (static_cast<int>(blockIdx.x % f.plan.row_blocks) * ROWS >= *f.queries.used) return;
  const Walk walk = walk_of(f);
  const Own own(walk);
  Loader loader(f.queries, f.keys, false, f.plan.buffers);
  const bool supcon = f.p.supcon, bounded = f.p.bounded();
  float maximum[2] = {bounded ? 0.0f : LOWEST, bounded ? 0.0f : LOWEST}, total[2] = {}, positives[2] = {};
  const auto visit = [&](int first, Scores& s, const Tile& tile) {
    for_each_column([&](int j, int e, int c) {
      const float factor = tile.number(0, c);
#pragma unroll
      for (int r = 0; r < 2; ++r) s[j][2 * r + e] *= own.factor[r] * factor;  // symmetric: the same in every sweep
    });
    if (walk.is_mixed(first)) {
      const Meeting meeting(walk, own);
      for_each_column([&](int j, int e, int c) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float& score = s[j][2 * r + e];
          const bool alike = meeting.is_alike(r, first + c), excluded = meeting.is_excluded(r, first + c);
          if (supcon && alike && !excluded) positives[r] += score;
          if (excluded || (alike && !supcon)) score = -INFINITY;
        }
      });
    }
    if (!bounded) {
      float raised[2] = {maximum[0], maximum[1]};
      for_each_column([&](int j, int e, int) {
#pragma unroll
        for (int r = 0; r < 2; ++r) raised[r] = fmaxf(raised[r], s[j][2 * r + e]);
      });
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        total[r] *= exponential<T>(maximum[r] - raised[r]);
        maximum[r] = raised[r];
      }
    }
    for_each_column([&](int j, int e, int) {
#pragma unroll
      for (int r = 0; r < 2; ++r) total[r] += exponential<T>(s[j][2 * r + e] - maximum[r]);
    });
  };
  const int gap = supcon ? walk.stop : walk.inner, gap_end = supcon ? walk.stop : walk.outer;
  sweep<T>(loader, walk.first_row, walk.first, walk.stop, gap, gap_end, f.plan.buffers, -1, visit);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float largest = maximum[r];
    join_quad(largest, [](float a, float b) { return fmaxf(a, b); });
    const float sum = sum_of_quad(total[r] * exponential<T>(maximum[r] - largest));
    const float scores = sum_of_quad(positives[r]);
    const int64_t at = blockIdx.x / f.plan.row_blocks * int64_t{f.queries.padded} + own.row(r);
    if (threadIdx.x % 4 != 0) continue;
    f.partial[0][at] = largest;
    f.partial[1][at] = sum;
    if (supcon) f.scores[at] = scores;
  }
}

// B of every sorted query, a thread each.
__global__ void __launch_bounds__(THREADS) join_segments(Forward f) {
  const int row = static_cast<int>(blockIdx.x) * THREADS + static_cast<int>(threadIdx.x);
  if (row >= *f.queries.used) return;
  const auto at = [&](int segment) { return int64_t{segment} * f.queries.padded + row; };
  float largest = LOWEST, total = 0.0f;
  for (int i = 0; i < f.plan.segments; ++i) largest = fmaxf(largest, f.partial[0][at(i)]);
  for (int i = 0; i < f.plan.segments; ++i) total += f.partial[1][at(i)] * expf(f.partial[0][at(i)] - largest);
  f.boundaries[row] = largest + logf(total);
}

// Over the positives; per_positive only.
template <typename T>
__global__ void __launch_bounds__(THREADS, 1) sum_positives(Forward f) {
  if (static_cast<int>(blockIdx.x % f.plan.row_blocks) * ROWS >= *f.queries.used) return;
  const Walk walk = walk_of(f);
  const Own own(walk);
  Loader loader(f.queries, f.keys, false, f.plan.buffers);
  const float boundary[2] = {f.boundaries[own.row(0)], f.boundaries[own.row(1)]};
  float losses[2] = {}, slopes[2] = {};
  const auto visit = [&](int first, Scores& s, const Tile& tile) {
    const Meeting meeting(walk, own);
    for_each_column([&](int j, int e, int c) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if (!meeting.is_alike(r, first + c) || meeting.is_excluded(r, first + c)) continue;
        const float margin = boundary[r] - s[j][2 * r + e] * (own.factor[r] * tile.number(0, c));
        const float x = exponential<T>(-fabsf(margin));
        losses[r] += fmaxf(margin, 0.0f) + log1pf(x);
        slopes[r] += __fdividef(margin > 0.0f ? 1.0f : x, 1.0f + x);
      }
    });
  };
  const int first = max(walk.first, down(walk.low)), stop = min(walk.stop, up(walk.high));
  sweep<T>(loader, walk.first_row, first, stop, stop, stop, f.plan.buffers, -1, visit);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float loss = sum_of_quad(losses[r]), slope = sum_of_quad(slopes[r]);
    const int64_t at = blockIdx.x / f.plan.row_blocks * int64_t{f.queries.padded} + own.row(r);
    if (threadIdx.x % 4 != 0) continue;
    f.partial[0][at] = loss;
    f.partial[1][at] = slope;
  }
}

// What the operation returns, a thread a query, those that take no part included.
__global__ void __launch_bounds__(THREADS) finish_rows(Forward f) {
  const Side& side = f.queries;
  const int64_t row = int64_t{blockIdx.x} * THREADS + threadIdx.x;
  if (row >= side.given.count) return;
  const int positives = side.positives[row], place = side.place[row];
  float loss = 0.0f, weight = 0.0f, boundary = -INFINITY;
  if (positives > 0) {
    boundary = f.boundaries[row];
    const float* const sums = f.p.supcon ? f.scores : f.partial[0];
    for (int i = 0; i < f.plan.segments; ++i) {
      const int64_t at = int64_t{i} * side.padded + row;
      loss += sums[at];
      if (!f.p.supcon) weight += f.partial[1][at];
    }
    loss /= static_cast<float>(positives);
    if (f.p.supcon) loss = boundary - loss;
  }
  f.loss[place] = loss;
  f.boundary[place] = boundary;
  f.weight[place] = weight;
  f.count[place] = positives;
}

}  // namespace
}  // namespace pyeqgan::contrastive
