// bilateral_propagation on the GPU, forward and backward (ops.md, section 2): the launchers.
//
// Two kernels a direction, `correlate` and `propagate`. Both read x; the batch goes through them in passes whose
// inputs fill half of the L2 cache, so device memory is read once. In shared memory a pixel is a Quad of 4 fp32
// channels and the sweeps read 16 bytes at a time, whatever the storage and layout. The Gaussian has any radius: a
// block adds up the pieces of the map its tile reaches, normally one. There are no atomics; every sum has a fixed
// order.
#include <algorithm>
#include <array>

#include "bilateral_correlate.cuh"
#include "bilateral_propagate.cuh"
#include "bilateral_propagation.h"
#include "launch.h"

namespace pyeqgan::bilateral {
namespace {

constexpr int64_t LARGEST = int64_t{1} << 30;     // extents and channels are int inside the kernels
constexpr int MAX_HALO = 16;                      // of a piece; what lies further is staged as pieces of its own
constexpr int64_t BLOCKS_PER_MULTIPROCESSOR = 8;  // wanted of propagate: four waves of the two that fit
constexpr int64_t MOST_QUADS = 8;                 // of channels a block of propagate goes through

int64_t reach_of(const int64_t* size, int64_t radius) {
  return std::min(radius, std::max<int64_t>(std::max(size[2], size[3]) - 1, 0));
}

int64_t tiles_of(const int64_t* size) { return blocks_of(size[2], TILE) * blocks_of(size[3], TILE); }

bool valid(const int64_t* size, float sigma, int64_t radius) {
  for (int axis = 0; axis < 4; ++axis)
    if (size[axis] < 0 || (axis > 0 && size[axis] > LARGEST)) return false;
  return sigma > 0 && radius >= 0;
}

// Carve the workspace, in the order of bilateral_propagation_workspace.
void carve(Problem& p, void* workspace, const int64_t* size, bool backward) {
  const int64_t padded = p.weights.reach + LINE - 1;
  float* next = static_cast<float*>(workspace);
  p.weights.taps = next + padded;
  next += 2 * padded + 1;
  p.weights.inverse_row = next;
  p.weights.inverse_column = next += size[2];
  if (!backward) return;
  p.slope = next += size[3];
  p.gate_terms = next + size[0] * 9 * size[2] * size[3];
}

// Shared memory of propagate: a piece and its filtered columns; backward, in turn with them, what the stencils
// read, and the mutual stencils themselves.
int propagate_bytes(Problem& p, bool backward) {
  const int rows = TILE + 2 * p.halo_y, columns = TILE + 2 * p.halo_x;
  p.working_quads = std::max((rows + TILE) * columns, backward ? 2 * NEAR_ROWS * NEAR_COLUMNS : 0);
  return (p.working_quads + (backward ? 9 * THREADS : 0)) * static_cast<int>(sizeof(Quad));
}

// The halo of a piece: the reach, as far as shared memory allows. Returns the bytes of shared memory, or 0.
int choose_halo(Problem& p, bool backward, int limit) {
  const int reach = std::clamp(p.weights.reach, 1, MAX_HALO);
  for (p.halo_x = (reach + 3) / 4 * 4; p.halo_x >= ALIGNED_HALO; p.halo_x -= 4) {
    p.halo_y = std::min(reach, p.halo_x);
    if (const int bytes = propagate_bytes(p, backward); bytes <= limit) return bytes;
  }
  return 0;
}

template <typename T, bool BACKWARD>
int run(Problem& p, const int64_t* size, cudaStream_t stream) {
  const auto [batch, channels, height, width] = std::array{size[0], size[1], size[2], size[3]};
  if (height * width == 0) return cudaSuccess;
  Device device{};
  if (const int error = query(&device)) return error;
  const int shared_bytes = choose_halo(p, BACKWARD, device.shared_bytes);
  if (shared_bytes == 0) return cudaErrorInvalidConfiguration;
  const int64_t image_bytes = channels * height * width * int64_t{sizeof(T)} * (BACKWARD ? 3 : 1);
  const int64_t images_per_pass = std::max<int64_t>(device.l2_bytes / 2 / std::max<int64_t>(image_bytes, 1), 1);
  const int64_t wanted = BLOCKS_PER_MULTIPROCESSOR * std::max(device.multiprocessors, 1);
  const int64_t bands = blocks_of(height, BAND) * p.tiles_x, quads = blocks_of(channels, 4);
  for (p.first_image = 0; p.first_image < batch; p.first_image += p.images) {
    p.images = std::min(images_per_pass, batch - p.first_image);
    const int64_t work = quads * tiles_of(size) * p.images;
    p.quads_per_block = static_cast<int>(std::clamp<int64_t>(work / wanted, 1, MOST_QUADS));
    int error = launch(correlate<T, BACKWARD>, bands * p.images + 1, THREADS, 0, stream, p);
    if (error != cudaSuccess) return error;
    error = launch(propagate<T, BACKWARD>, tiles_of(size) * p.images * blocks_of(quads, p.quads_per_block), THREADS,
                   shared_bytes, stream, p);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

Problem make_problem(const int64_t* size, float sigma, int64_t radius) {
  Problem p{};
  p.channels = static_cast<int>(size[1]);
  p.height = static_cast<int>(size[2]);
  p.width = static_cast<int>(size[3]);
  p.tiles_y = static_cast<int>(blocks_of(size[2], TILE));
  p.tiles_x = static_cast<int>(blocks_of(size[3], TILE));
  p.weights.sigma = sigma;
  p.weights.reach = static_cast<int>(reach_of(size, radius));
  return p;
}

template <typename T>
View view_of(const Problem& p, const void* data, const int64_t* stride, int half = 0) {
  const int64_t first = int64_t{half} * p.channels * stride[1];
  return make_view(static_cast<const T*>(data) + first, stride, p.channels, p.height, p.width, sizeof(T));
}

}  // namespace
}  // namespace pyeqgan::bilateral

using namespace pyeqgan;
using namespace pyeqgan::bilateral;

int64_t pyeqgan_bilateral_propagation_workspace(const int64_t* size, int64_t radius, bool backward) {
  const int64_t taps = 2 * (reach_of(size, radius) + LINE - 1) + 1;
  const int64_t pixels = size[0] * size[2] * size[3];
  const int64_t more = backward ? 9 * pixels + size[0] * size[1] * tiles_of(size) : 0;
  return (taps + size[2] + size[3] + more) * int64_t{sizeof(float)};
}

int pyeqgan_bilateral_propagation(const void* x, const int64_t* x_stride, const void* gate, void* y,
                                  const int64_t* y_stride, float* affinity, void* workspace, int dtype,
                                  const int64_t* size, float sigma, int64_t radius, cudaStream_t stream) {
  if (!valid(size, sigma, radius)) return cudaErrorInvalidValue;
  return dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    Problem p = make_problem(size, sigma, radius);
    carve(p, workspace, size, false);
    p.x = view_of<T>(p, x, x_stride);
    p.spatial = view_of<T>(p, y, y_stride, 0);
    p.ranged = view_of<T>(p, y, y_stride, 1);
    p.gate = gate;
    p.affinity = affinity;
    return run<T, false>(p, size, stream);
  });
}

int pyeqgan_bilateral_propagation_backward(const void* grad_y, const int64_t* grad_y_stride, const void* x,
                                           const int64_t* x_stride, const void* gate, const float* affinity,
                                           void* grad_x, const int64_t* grad_x_stride, void* grad_gate, void* workspace,
                                           int dtype, const int64_t* size, float sigma, int64_t radius,
                                           cudaStream_t stream) {
  if (!valid(size, sigma, radius)) return cudaErrorInvalidValue;
  return dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    Problem p = make_problem(size, sigma, radius);
    carve(p, workspace, size, true);
    p.x = view_of<T>(p, x, x_stride);
    p.spatial = view_of<T>(p, grad_y, grad_y_stride, 0);
    p.ranged = view_of<T>(p, grad_y, grad_y_stride, 1);
    if (grad_x != nullptr) p.grad_x = view_of<T>(p, grad_x, grad_x_stride);
    if (grad_gate == nullptr) p.gate_terms = nullptr;
    p.gate = gate;
    p.affinity = const_cast<float*>(affinity);
    const int error = run<T, true>(p, size, stream);
    if (error != cudaSuccess || grad_gate == nullptr) return error;
    const GateSum sum{p.gate_terms, grad_gate, size[0] * size[1], tiles_of(size)};
    return launch(finish_gate<T>, blocks_of(sum.entries, WARPS), THREADS, 0, stream, sum);
  });
}
