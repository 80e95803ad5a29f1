// lifted_fusion forward and backward. A block goes through some channels of up to 128 neighbouring cells of one row of
// the grid. Where several positions took the content of one cell, backward gathers their gradients in order.
#pragma once

#include "fusion_problem.cuh"
#include "reduce.cuh"

namespace pyeqgan::fusion {
namespace {

constexpr int SEGMENT = THREADS;  // cells of a block
constexpr int LARGEST_SLICES = 32;

// A block's share of an image: some cells of a row of the grid, some channels.
struct Share {
  int64_t image, k;
  int row, first_column, columns, first_channel, channels;

  __device__ Share(const Problem& p, int lists) {
    int64_t block = blockIdx.x;
    first_channel = take(block, blocks_of(p.channels, p.channels_per_block)) * p.channels_per_block;
    first_column = take(block, blocks_of(p.columns, SEGMENT)) * SEGMENT;
    row = take(block, p.rows);
    k = take(block, lists);
    image = block;
    columns = min(SEGMENT, p.columns - first_column);
    channels = min(p.channels_per_block, p.channels - first_channel);
  }

  // Calls visit(channel, y, x, cell) with the map's coordinates and the cell's place in the share.
  template <typename Visit>
  __device__ void elements(const Problem& p, const Maps& maps, Visit visit) const {
    const int width = columns * p.scale;
    for_each(maps, channels, width * p.scale, [&](int channel, int pixel) {
      const int x = pixel % width;
      visit(first_channel + channel, row * p.scale + pixel / width, first_column * p.scale + x, x / p.scale);
    });
  }
};

inline int64_t shares(const Problem& p, int64_t lists) {
  return p.batch * lists * p.rows * blocks_of(p.columns, SEGMENT) * blocks_of(p.channels, p.channels_per_block);
}

template <typename T>
__global__ void __launch_bounds__(THREADS) lifted_fusion(Problem p) {
  SHARED_ARRAY(int, owner, SEGMENT);
  const Share share(p, 1);
  owner[threadIdx.x] = -1;
  __syncthreads();
  const int first_cell = share.row * p.columns + share.first_column;
  for (int i = static_cast<int>(threadIdx.x); i < p.selected; i += THREADS) {
    const int64_t cell = p.positions[share.image * p.selected + i] - first_cell;
    if (cell >= 0 && cell < share.columns) owner[cell] = i;
  }
  __syncthreads();
  share.elements(p, p.fused, [&](int channel, int y, int x, int cell) {
    const float value = owner[cell] < 0 ? read<T>(p.base, p.base.at(share.image, 0, channel, y, x))
                                        : blend<T>(p, share.image, owner[cell], channel, y % p.scale, x % p.scale);
    write<T>(p.fused, p.fused.at(share.image, 0, channel, y, x), value);
  });
}

// A stable counting sort: a thread for each cell looks at every position's cell.
__global__ void __launch_bounds__(THREADS) sort_members(Problem p) {
  int64_t block = blockIdx.x;
  const int cell = take(block, blocks_of(p.cells(), THREADS)) * THREADS + static_cast<int>(threadIdx.x);
  const int k = take(block, p.count + 1);
  const int64_t image = block;
  if (cell >= p.cells()) return;
  const int64_t* const taken = p.taken(image, k);
  int start = 0;
  for (int i = 0; i < p.selected; ++i) start += taken[i] < cell;
  int64_t* const starts = p.starts + p.list(image, k) * (p.cells() + 1);
  starts[cell] = start;
  if (cell + 1 == p.cells()) starts[p.cells()] = p.selected;
  int* next = p.members + p.list(image, k) * p.selected + start;
  for (int i = 0; i < p.selected; ++i)
    if (taken[i] == cell) *next++ = i;
}

// grad_base and grad_references, those that are asked for.
template <typename T>
__global__ void __launch_bounds__(THREADS) lifted_fusion_backward(Problem p) {
  const bool base = p.grad_base.data != nullptr, references = p.grad_references.data != nullptr;
  const Share share(p, (base ? 1 : 0) + (references ? p.count : 0));
  const int k = static_cast<int>(share.k) + (base ? 0 : 1);
  const Maps& target = k == 0 ? p.grad_base : p.grad_references;
  const int64_t* const starts = p.starts + p.list(share.image, k) * (p.cells() + 1) + share.row * p.columns;
  const int* const members = p.members + p.list(share.image, k) * p.selected;
  const float scale = weight<T>(p, share.image, k);
  share.elements(p, target, [&](int channel, int y, int x, int cell) {
    const int64_t begin = starts[share.first_column + cell], end = starts[share.first_column + cell + 1];
    float sum = 0.0f;
    for (int64_t m = begin; m < end; ++m) {
      const int at = static_cast<int>(p.positions[share.image * p.selected + members[m]]);
      sum += read<T>(p.grad_fused, p.grad_fused.at(share.image, 0, channel, at / p.columns * p.scale + y % p.scale,
                                                   at % p.columns * p.scale + x % p.scale));
    }
    float value = scale * sum;
    if (k == 0 && begin == end) value = read<T>(p.grad_fused, p.grad_fused.at(share.image, 0, channel, y, x));
    write<T>(target, target.at(share.image, k == 0 ? 0 : k - 1, channel, y, x), value);
  });
}

// A slice of the positions: the sum of grad times content over them, their patches and channels.
template <typename T>
__global__ void __launch_bounds__(THREADS) weight_terms(Problem p) {
  int64_t block = blockIdx.x;
  const int slice = take(block, p.slices);
  const int k = take(block, p.count + 1);
  const int64_t image = block;
  const int per_slice = static_cast<int>(blocks_of(p.selected, p.slices));
  const int first = min(slice * per_slice, p.selected), count = min(per_slice, p.selected - first);
  const unsigned scale = p.scale, patch = p.channels * scale * scale;
  const Maps& maps = k == 0 ? p.base : p.references;
  float sum = 0.0f;
  for (unsigned e = threadIdx.x; e < count * patch; e += THREADS) {
    const int i = first + static_cast<int>(e / patch);
    const unsigned pixel = e % patch % (scale * scale), dy = pixel / scale, dx = pixel % scale;
    const int64_t channel = e % patch / (scale * scale);
    const int at = static_cast<int>(p.positions[image * p.selected + i]), from = static_cast<int>(p.taken(image, k)[i]);
    const float grad = read<T>(
        p.grad_fused, p.grad_fused.at(image, 0, channel, at / p.columns * p.scale + dy, at % p.columns * p.scale + dx));
    sum += grad * read<T>(maps, maps.at(image, k == 0 ? 0 : k - 1, channel, from / p.columns * p.scale + dy,
                                        from % p.columns * p.scale + dx));
  }
  sum = sum_of_block<THREADS>(sum);
  if (threadIdx.x == 0) p.terms[p.list(image, k) * p.slices + slice] = sum;
}

template <typename T>
__global__ void __launch_bounds__(THREADS) finish_weights(Problem p) {
  const int64_t entry = int64_t{blockIdx.x} * THREADS + threadIdx.x;
  if (entry >= p.batch * (p.count + 1)) return;
  float sum = 0.0f;
  for (int slice = 0; slice < p.slices; ++slice) sum += p.terms[entry * p.slices + slice];
  static_cast<T*>(p.grad_weights)[entry] = narrow<T>(sum);
}

}  // namespace
}  // namespace pyeqgan::fusion
