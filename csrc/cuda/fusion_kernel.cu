// local_fusion and lifted_fusion on the GPU (ops.md, section 1): the launchers.
#include <algorithm>

#include "fusion.h"
#include "launch.h"
#include "lifted_fusion.cuh"
#include "local_fusion.cuh"

namespace pyeqgan::fusion {
namespace {

constexpr int64_t LARGEST = int64_t{1} << 30;  // extents are int inside the kernels
constexpr int64_t LARGEST_CHANNELS = LARGEST / THREADS, LARGEST_SCALE = 1 << 11;
constexpr int64_t BLOCKS_PER_MULTIPROCESSOR = 16;  // wanted of a lifted fusion: as many as run side by side

bool valid(const pyeqgan_fusion& f) {
  for (const int64_t extent : {f.batch, f.count, f.channels, f.rows, f.columns, f.selected})
    if (extent < 0 || extent > LARGEST) return false;
  if (f.scale < 1 || f.scale > LARGEST_SCALE || f.channels > LARGEST_CHANNELS) return false;
  // What a block goes through is counted in 32 bits.
  return f.rows * f.columns <= LARGEST && f.rows * f.scale <= LARGEST && f.columns * f.scale <= LARGEST &&
         blocks_of(f.selected, LARGEST_SLICES) * f.channels * f.scale * f.scale <= LARGEST;
}

Maps image(const void* data, const int64_t* stride) {
  return {const_cast<void*>(data), {stride[0], 0, stride[1], stride[2], stride[3]}};
}

Maps stack(const void* data, const int64_t* stride) {
  return {const_cast<void*>(data), {stride[0], stride[1], stride[2], stride[3], stride[4]}};
}

Problem make_problem(const pyeqgan_fusion& f) {
  Problem p{};
  p.base = image(f.base, f.base_stride);
  p.references = stack(f.references, f.references_stride);
  p.weights = f.weights;
  p.positions = f.positions;
  p.matches = const_cast<int64_t*>(f.matches);
  p.batch = f.batch;
  p.count = static_cast<int>(f.count);
  p.channels = static_cast<int>(f.channels);
  p.rows = static_cast<int>(f.rows);
  p.columns = static_cast<int>(f.columns);
  p.scale = static_cast<int>(f.scale);
  p.selected = static_cast<int>(f.selected);
  return p;
}

// As few channels a block as it takes to keep the GPU busy.
int share_channels(Problem& p, int64_t lists) {
  Device device{};
  if (const int error = query(&device)) return error;
  p.channels_per_block = std::max(p.channels, 1);
  const int64_t wanted = BLOCKS_PER_MULTIPROCESSOR * device.multiprocessors;
  const int64_t parts = std::clamp<int64_t>(wanted / std::max<int64_t>(shares(p, lists), 1), 1, p.channels_per_block);
  const int64_t most = std::max<int64_t>(LARGEST / (int64_t{SEGMENT} * p.scale * p.scale), 1);
  p.channels_per_block = static_cast<int>(std::min(blocks_of(p.channels_per_block, parts), most));
  return cudaSuccess;
}

int slices_of(const pyeqgan_fusion& f) { return static_cast<int>(std::clamp<int64_t>(f.selected, 1, LARGEST_SLICES)); }

}  // namespace
}  // namespace pyeqgan::fusion

using namespace pyeqgan;
using namespace pyeqgan::fusion;

int pyeqgan_local_fusion(const pyeqgan_fusion* f, void* fused, const int64_t* fused_stride, int64_t* matches,
                         cudaStream_t stream) {
  if (!valid(*f) || f->scale != 1) return cudaErrorInvalidValue;
  return dispatch(f->dtype, [&](auto zero) {
    Problem p = make_problem(*f);
    p.fused = image(fused, fused_stride);
    p.matches = matches;
    const int64_t blocks = matching_blocks(p) + blocks_of(p.cells(), THREADS);
    return launch(local_fusion<decltype(zero)>, p.batch * blocks, THREADS, 0, stream, p);
  });
}

int pyeqgan_lifted_fusion(const pyeqgan_fusion* f, void* fused, const int64_t* fused_stride, cudaStream_t stream) {
  if (!valid(*f)) return cudaErrorInvalidValue;
  return dispatch(f->dtype, [&](auto zero) {
    Problem p = make_problem(*f);
    p.fused = image(fused, fused_stride);
    if (const int error = share_channels(p, 1)) return error;
    return launch(lifted_fusion<decltype(zero)>, shares(p, 1), THREADS, 0, stream, p);
  });
}

int64_t pyeqgan_lifted_fusion_workspace(const pyeqgan_fusion* f) {
  const int64_t lists = f->batch * (f->count + 1);
  return lists * ((f->rows * f->columns + 1) * int64_t{sizeof(int64_t)} + f->selected * int64_t{sizeof(int)} +
                  slices_of(*f) * int64_t{sizeof(float)});
}

int pyeqgan_lifted_fusion_backward(const pyeqgan_fusion* f, const void* grad_fused, const int64_t* grad_fused_stride,
                                   void* grad_base, const int64_t* grad_base_stride, void* grad_references,
                                   const int64_t* grad_references_stride, void* grad_weights, void* workspace,
                                   cudaStream_t stream) {
  if (!valid(*f)) return cudaErrorInvalidValue;
  return dispatch(f->dtype, [&](auto zero) -> int {
    using T = decltype(zero);
    Problem p = make_problem(*f);
    p.grad_fused = image(grad_fused, grad_fused_stride);
    if (grad_base != nullptr) p.grad_base = image(grad_base, grad_base_stride);
    if (grad_references != nullptr) p.grad_references = stack(grad_references, grad_references_stride);
    p.grad_weights = grad_weights;
    p.slices = slices_of(*f);
    const int64_t entries = p.batch * (p.count + 1);
    p.starts = static_cast<int64_t*>(workspace);
    p.members = reinterpret_cast<int*>(p.starts + entries * (p.cells() + 1));
    p.terms = reinterpret_cast<float*>(p.members + entries * p.selected);
    const int64_t lists = (grad_base != nullptr ? 1 : 0) + (grad_references != nullptr ? p.count : 0);
    int error = cudaSuccess;
    if (lists > 0) {
      error = launch(sort_members, entries * blocks_of(p.cells(), THREADS), THREADS, 0, stream, p);
      if (error == cudaSuccess) error = share_channels(p, lists);
      if (error == cudaSuccess) error = launch(lifted_fusion_backward<T>, shares(p, lists), THREADS, 0, stream, p);
    }
    if (grad_weights == nullptr || error != cudaSuccess) return error;
    error = launch(weight_terms<T>, entries * p.slices, THREADS, 0, stream, p);
    if (error != cudaSuccess) return error;
    return launch(finish_weights<T>, blocks_of(entries, THREADS), THREADS, 0, stream, p);
  });
}
