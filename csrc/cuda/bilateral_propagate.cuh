// Second kernel of bilateral_propagation: for every channel the separable Gaussian and the 3x3 stencils, with
// the numbers the first kernel found.
#pragma once

#include "bilateral_problem.cuh"
#include "launch.h"

namespace pyeqgan::bilateral {
namespace {

// sum[i] += weight[d][i] * (neighbour d of pixel i), over the 3x3 neighbours of 4 pixels; corner is the line
// and column of the first pixel's upper left neighbour.
__device__ void stencil(Quad (&sum)[4], const Quad* corner, int pitch, int column, const float (&weight)[9][4]) {
#pragma unroll
  for (int dy = 0; dy < 3; ++dy) {
#pragma unroll
    for (int j = 0; j < 6; ++j) {
      const Quad neighbour = corner[dy * pitch + swizzle(column + j)];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (j - i >= 0 && j - i < 3) multiply_add(sum[i], weight[3 * dy + j - i][i], neighbour);
    }
  }
}

// The stencil of 4 pixels from (y, x) on: a_pj (forward), or a_ip, with which a pixel p gathers (backward).
template <bool BACKWARD>
__device__ void load_stencil(const Problem& p, int64_t image, int y, int x, float (&a)[9][4]) {
  const float* own = p.affinity + p.entry(image, 0, y, x);
#pragma unroll
  for (int d = 0; d < 9; ++d) {
    const int dy = d / 3 - 1, dx = d % 3 - 1;
    const float* from = own + (BACKWARD ? p.entry(0, 8 - d, dy, dx) : p.entry(0, d, 0, 0));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool linked = !BACKWARD || p.inside(y + dy, x + i + dx);
      a[d][i] = p.inside(y, x + i) && linked ? from[i] : 0.0f;
    }
  }
}

// Backward: (dz_pq + dz_qp)/C of those pixels, one Quad of 4 pixels a neighbour, THREADS Quads apart.
__device__ void load_mutual(const Problem& p, int64_t image, int y, int x, Quad* mutual) {
  const float* own = p.slope + p.entry(image, 0, y, x);
  for (int d = 0; d < 9; ++d) {
    const int dy = d / 3 - 1, dx = d % 3 - 1;
    const float* there = own + p.entry(0, d, 0, 0);
    const float* back = own + p.entry(0, 8 - d, dy, dx);
    Quad sum{};
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (p.inside(y, x + i) && p.inside(y + dy, x + i + dx)) sum.channel[i] = there[i] + back[i];
    mutual[d * THREADS] = sum;
  }
}

// Backward: what the affinities pass on to v: sum[i] += s (1 - s) Σ_d dz[d][i] (sigmoid of neighbour d), s the
// sigmoid of pixel i.
__device__ void add_slope(Quad (&sum)[4], const Quad* corner, int column, const Quad* mutual) {
  float dz[9][4];
#pragma unroll
  for (int d = 0; d < 9; ++d) {
#pragma unroll
    for (int i = 0; i < 4; ++i) dz[d][i] = mutual[d * THREADS].channel[i];
  }
  Quad slope[4] = {};
  stencil(slope, corner, NEAR_COLUMNS, column, dz);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Quad s = corner[NEAR_COLUMNS + swizzle(column + 1 + i)];
#pragma unroll
    for (int c = 0; c < 4; ++c) sum[i].channel[c] += s.channel[c] * (1.0f - s.channel[c]) * slope[i].channel[c];
  }
}

// The block's tile, at (y0, x0) of an image, and the thread's first pixel (y, x).
struct Tile {
  int64_t image, number;
  int y0, x0, y, x;
};

// A piece of the map in shared memory, of size (rows, columns) at (top, left): columns may lie outside the map.
struct Piece {
  Quad* data;
  int top, left, rows, columns;
};

// Down the columns: filtered(i, x) = Σ_j taps[j - i] piece(j, x) for the rows i of the tile, LINE rows at a time.
__device__ void filter_columns(const Problem& p, const Piece& piece, Quad* filtered, int y0) {
  for (int item = threadIdx.x; item < piece.columns * (TILE / LINE); item += THREADS) {
    const int column = swizzle(item % piece.columns);
    const int row = item / piece.columns * LINE, y = y0 + row;
    const int x = piece.left + item % piece.columns;
    if (x < 0 || x >= p.width || y >= p.height) continue;
    Quad sum[LINE] = {};
    const int reach = p.weights.reach;
    filter_line(sum, p.weights, y, max(max(y - reach, piece.top), 0),
                min(min(y + LINE + reach, piece.top + piece.rows), p.height),
                [&](int j) { return piece.data[(j - piece.top) * piece.columns + column]; });
#pragma unroll
    for (int s = 0; s < LINE; ++s) filtered[(row + s) * piece.columns + column] = sum[s];
  }
}

// Along a row: sum[i] += Σ_j taps[j - (x + i)] filtered(y, j).
__device__ void filter_row(const Problem& p, const Piece& piece, const Quad* line, int x, Quad (&sum)[4]) {
  const int reach = p.weights.reach;
  filter_line(sum, p.weights, x, max(max(x - reach, piece.left), 0),
              min(min(x + 4 + reach, piece.left + piece.columns), p.width),
              [&](int j) { return line[swizzle(j - piece.left)]; });
}

// 1 / (row sum x column sum) of the taps for 4 pixels; 0 outside the map.
__device__ void load_normalisers(const Problem& p, int y, int x, float (&factor)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    factor[i] = p.inside(y, x + i) ? p.weights.inverse_row[y] * p.weights.inverse_column[x + i] : 0.0f;
  }
}

// Bring a piece into shared memory: v (forward), or the gradient of the spatial half, normalised (backward).
template <typename T, bool BACKWARD>
__device__ void stage(const Problem& p, const Piece& piece, int64_t image, int channel) {
  const int units = piece.columns / 4;
  for (int unit = threadIdx.x; unit < piece.rows * units; unit += THREADS) {
    const int row = unit / units, column = unit % units * 4;
    const int y = piece.top + row, x = piece.left + column;
    Patch patch;
    if (BACKWARD) {
      float factor[4];
      load_normalisers(p, y, x, factor);
      patch = load_patch<T>(p.spatial, image, channel, y, x);
#pragma unroll
      for (int i = 0; i < 4; ++i) patch.pixel[i] = scaled(patch.pixel[i], factor[i]);
    } else {
      patch = gated_patch<T>(p, image, channel, y, x, false);
    }
    put(piece.data + row * piece.columns, column, patch);
  }
}

// Backward: what the 3x3 stencils read, the gradient of the range half and sigmoid(v).
template <typename T>
__device__ void stage_near(const Problem& p, Quad* gradient, Quad* squashed, int64_t image, int channel, int y0,
                           int x0) {
  constexpr int UNITS = NEAR_COLUMNS / 4;
  for (int unit = threadIdx.x; unit < NEAR_ROWS * UNITS; unit += THREADS) {
    const int row = unit / UNITS, column = unit % UNITS * 4;
    const int y = y0 - 1 + row, x = x0 - ALIGNED_HALO + column;
    put(gradient + row * NEAR_COLUMNS, column, load_patch<T>(p.ranged, image, channel, y, x));
    put(squashed + row * NEAR_COLUMNS, column, gated_patch<T>(p, image, channel, y, x, true));
  }
}

__device__ float warp_sum(float value) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) value += __shfl_xor_sync(0xffffffffu, value, lane);
  return value;
}

// The block's share of dgate = Σ dv x, for 4 channels.
template <typename T>
__device__ void reduce_gate(const Problem& p, const Tile& t, int channel, const Patch& dv) {
  SHARED_ARRAY(Quad, warp_total, WARPS);
  const Patch own = load_patch<T>(p.x, t.image, channel, t.y, t.x);
  Quad total{};
#pragma unroll
  for (int c = 0; c < 4; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (p.inside(t.y, t.x + i)) total.channel[c] += dv.pixel[i].channel[c] * own.pixel[i].channel[c];
    total.channel[c] = warp_sum(total.channel[c]);
  }
  if (threadIdx.x % 32 == 0) warp_total[threadIdx.x / 32] = total;
  __syncthreads();
  if (threadIdx.x < 4 && channel + static_cast<int>(threadIdx.x) < p.channels) {
    float sum = 0.0f;
    for (int warp = 0; warp < WARPS; ++warp) sum += warp_total[warp].channel[threadIdx.x];
    const int64_t entry = t.image * p.channels + channel + threadIdx.x;
    p.gate_terms[entry * p.tiles_y * p.tiles_x + t.number] = sum;
  }
}

// The spatial sum of a thread's 4 pixels, piece by piece of what the tile reaches. centre(piece) is called while
// the piece around the tile is in shared memory.
template <typename T, bool BACKWARD, typename Centre>
__device__ void add_spatial(const Problem& p, const Tile& t, int channel, Quad (&sum)[4], Centre centre) {
  Piece piece{reinterpret_cast<Quad*>(dynamic_shared), 0, 0, TILE + 2 * p.halo_y, TILE + 2 * p.halo_x};
  Quad* filtered = piece.data + piece.rows * piece.columns;
  const int steps_y = (max(p.weights.reach - p.halo_y, 0) + piece.rows - 1) / piece.rows;
  const int steps_x = (max(p.weights.reach - p.halo_x, 0) + piece.columns - 1) / piece.columns;
  for (int step_y = -steps_y; step_y <= steps_y; ++step_y) {
    piece.top = t.y0 - p.halo_y + step_y * piece.rows;
    if (piece.top + piece.rows <= 0 || piece.top >= p.height) continue;
    for (int step_x = -steps_x; step_x <= steps_x; ++step_x) {
      piece.left = t.x0 - p.halo_x + step_x * piece.columns;
      if (piece.left + piece.columns <= 0 || piece.left >= p.width) continue;
      stage<T, BACKWARD>(p, piece, t.image, channel);
      __syncthreads();
      if (step_y == 0 && step_x == 0) centre(piece);
      filter_columns(p, piece, filtered, t.y0);
      __syncthreads();
      if (t.y < p.height) filter_row(p, piece, filtered + (t.y - t.y0) * piece.columns, t.x, sum);
    }
  }
}

template <typename T>
__device__ void propagate_forward(const Problem& p, const Tile& t, int channel) {
  Patch spatial{};
  add_spatial<T, false>(p, t, channel, spatial.pixel, [&](const Piece& piece) {
    float a[9][4];
    load_stencil<false>(p, t.image, t.y, t.x, a);
    Patch ranged{};
    stencil(ranged.pixel, piece.data + (t.y - 1 - piece.top) * piece.columns, piece.columns, t.x - 1 - piece.left, a);
    store_patch<T>(p.ranged, t.image, channel, t.y, t.x, ranged);
  });
  float factor[4];
  load_normalisers(p, t.y, t.x, factor);
#pragma unroll
  for (int i = 0; i < 4; ++i) spatial.pixel[i] = scaled(spatial.pixel[i], factor[i]);
  store_patch<T>(p.spatial, t.image, channel, t.y, t.x, spatial);
}

template <typename T>
__device__ void propagate_backward(const Problem& p, const Tile& t, int channel, const Quad* mutual) {
  Quad* gradient = reinterpret_cast<Quad*>(dynamic_shared);
  Quad* squashed = gradient + NEAR_ROWS * NEAR_COLUMNS;
  const int line = (t.y - t.y0) * NEAR_COLUMNS, column = t.x - t.x0 + ALIGNED_HALO - 1;
  stage_near<T>(p, gradient, squashed, t.image, channel, t.y0, t.x0);
  float a[9][4];
  load_stencil<true>(p, t.image, t.y, t.x, a);
  __syncthreads();
  Patch dv{};
  stencil(dv.pixel, gradient + line, NEAR_COLUMNS, column, a);
  add_slope(dv.pixel, squashed + line, column, mutual);
  __syncthreads();
  add_spatial<T, true>(p, t, channel, dv.pixel, [](const Piece&) {});
  if (p.gate_terms != nullptr) reduce_gate<T>(p, t, channel, dv);
  if (p.grad_x.data != nullptr)
    store_patch<T>(p.grad_x, t.image, channel, t.y, t.x,
                   scaled(dv, load_gate<T>(p.gate, p.channels, t.image, channel)));
  __syncthreads();  // the next channels overwrite the filtered columns
}

// One block: TILE x TILE pixels of quads_per_block quads of channels; a thread owns 4 pixels of a row.
template <typename T, bool BACKWARD>
__global__ void __launch_bounds__(THREADS, 2) propagate(Problem p) {
  Tile t;
  int64_t index = blockIdx.x;
  t.x0 = take(index, p.tiles_x) * TILE;
  t.y0 = take(index, p.tiles_y) * TILE;
  t.number = t.y0 / TILE * static_cast<int64_t>(p.tiles_x) + t.x0 / TILE;
  const int step = 4 * p.quads_per_block;
  const int first = take(index, (p.channels + step - 1) / step) * step;
  t.image = p.first_image + index;
  t.y = t.y0 + static_cast<int>(threadIdx.x) / (TILE / 4);
  t.x = t.x0 + static_cast<int>(threadIdx.x) % (TILE / 4) * 4;

  Quad* mutual = reinterpret_cast<Quad*>(dynamic_shared) + p.working_quads + threadIdx.x;
  if (BACKWARD) load_mutual(p, t.image, t.y, t.x, mutual);
  for (int channel = first; channel < min(first + step, p.channels); channel += 4) {
    if (BACKWARD) {
      propagate_backward<T>(p, t, channel, mutual);
    } else {
      propagate_forward<T>(p, t, channel);
    }
  }
}

// dgate: a warp adds up the tiles of one (image, channel).
template <typename T>
__global__ void __launch_bounds__(THREADS) finish_gate(GateSum p) {
  const int64_t entry = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / 32;
  if (entry >= p.entries) return;
  float sum = 0.0f;
  for (int64_t tile = threadIdx.x % 32; tile < p.tiles; tile += 32) sum += p.terms[entry * p.tiles + tile];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) static_cast<T*>(p.grad_gate)[entry] = narrow<T>(sum);
}

}  // namespace
}  // namespace pyeqgan::bilateral
