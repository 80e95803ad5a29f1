// contrastive_loss on the GPU, forward and backward (ops.md, section 5): the launchers.
//
// The rows of each side are gathered in the order of their labels into tiles; a block of threads sweeps with 128 of
// them over the other side, and no score outlives its tile. There are no atomics; every sum has a fixed order, and the
// work is cut by shapes alone: results do not depend on the GPU's size.
#include <algorithm>

#include "contrastive_backward.cuh"
#include "contrastive_forward.cuh"
#include "contrastive_groups.cuh"
#include "contrastive_loss.h"
#include "contrastive_rows.cuh"
#include "launch.h"

namespace pyeqgan::contrastive {
namespace {

constexpr int64_t WANTED = 256;   // blocks of a sweep, where there are too few rows for that
constexpr int64_t SEGMENT = 512;  // columns that are worth a block

// Hands out parts of the workspace; of none it measures what is needed.
class Carver {
 public:
  explicit Carver(void* workspace) : start_(static_cast<unsigned char*>(workspace)) {}

  template <typename T>
  T* take(int64_t count) {
    const int64_t at = bytes_;
    bytes_ += blocks_of(count * int64_t{sizeof(T)}, ALIGNED) * ALIGNED;
    return start_ == nullptr ? nullptr : reinterpret_cast<T*>(start_ + at);
  }
  int64_t bytes() const { return bytes_; }

 private:
  static constexpr int64_t ALIGNED = 128;
  unsigned char* start_;
  int64_t bytes_ = 0;
};

struct Work {
  Setting setting;
  Side queries, keys;
  int64_t element;  // bytes

  Work(const pyeqgan_contrastive_problem& given, Carver& carver) : setting{} {
    setting.single = given.single;
    setting.normalize = given.normalize;
    setting.supcon = given.supcon;
    setting.channels = static_cast<int>(given.channels);
    setting.ignore_index = given.ignore_index;
    setting.temperature_at = given.temperature;
    setting.temperature_value = given.temperature_value;
    element = given.dtype == FLOAT32 ? 4 : 2;
    queries = side(given.queries, carver);
    keys = given.single ? queries : side(given.keys, carver);
  }

  int64_t width() const { return queries.chunks * (CHUNK / element); }

 private:
  Side side(const pyeqgan_contrastive_rows& given, Carver& carver) const {
    Side s{};
    s.given = given;
    s.padded = static_cast<int>(blocks_of(given.count, ROWS) * ROWS);
    s.chunks = static_cast<int>(std::max<int64_t>(blocks_of(setting.channels * element, CHUNK), 1));
    s.used = carver.take<int>(1);
    s.place = carver.take<int>(given.count);
    if (given.ids != nullptr) s.ids = carver.take<int64_t>(s.padded);
    for (int** each : {&s.begin, &s.end, &s.positives}) *each = carver.take<int>(s.padded);
    for (float** each : {&s.units, &s.factors, &s.inverses, &s.share, &s.shift, &s.pull})
      *each = carver.take<float>(s.padded);
    s.tiles = carver.take<unsigned char>(int64_t{s.padded} * s.chunks * CHUNK);
    return s;
  }
};

// Of a sweep of one side's rows over the other side; the buffers follow from the device.
Plan plan_of(const Side& own, const Side& other) {
  Plan plan{};
  plan.row_blocks = own.padded / ROWS;
  const int64_t others = other.given.count;
  if (plan.row_blocks == 0 || others == 0) return plan;
  const int64_t wanted = std::min(std::max<int64_t>(WANTED / plan.row_blocks, 1), blocks_of(others, SEGMENT));
  plan.span = static_cast<int>(std::min(blocks_of(blocks_of(others, wanted), ROWS) * ROWS, MOST_ROWS));
  plan.segments = static_cast<int>(blocks_of(others, plan.span));
  return plan;
}

// Two buffers where they fit, and every channel with them. Returns the bytes of shared memory, or 0 if one is too much.
int choose_buffers(Plan& plan, int chunks, int limit) {
  for (plan.buffers = panels_of(chunks) == 1 ? 2 : 1; plan.buffers > 0; --plan.buffers)
    if (shared_bytes(chunks, plan.buffers) <= limit) return shared_bytes(chunks, plan.buffers);
  return 0;
}

// Of the queries, partial sums and boundaries; see Forward.
Forward carve_forward(const Work& work, Carver& carver) {
  Forward f{};
  f.p = work.setting, f.queries = work.queries, f.keys = work.keys;
  f.plan = plan_of(work.queries, work.keys);
  for (float** each : {&f.partial[0], &f.partial[1], &f.scores})
    *each = carver.take<float>(int64_t{f.plan.segments} * work.queries.padded);
  f.boundaries = carver.take<float>(work.queries.padded);
  return f;
}

struct BackwardWork {
  float *sums, *slopes, *scale;

  BackwardWork(const Work& work, Carver& carver) {
    const auto rows = [](const Plan& plan, const Side& own) { return int64_t{plan.segments} * own.padded; };
    const int64_t most = std::max(rows(plan_of(work.queries, work.keys), work.queries),
                                  rows(plan_of(work.keys, work.queries), work.keys));
    sums = carver.take<float>(most * work.width());
    slopes = carver.take<float>(std::max(work.queries.padded, work.keys.padded));
    scale = carver.take<float>(2);
  }
};

bool valid(const pyeqgan_contrastive_problem& p) {
  const auto is_valid = [](int64_t count) { return count >= 0 && count <= MOST_ROWS; };
  return is_valid(p.queries.count) && (p.single || is_valid(p.keys.count)) && p.channels >= 0 &&
         p.channels <= LARGEST && p.dtype >= FLOAT32 && p.dtype <= BFLOAT16;
}

// Runs until something fails, which is what it returns.
template <typename... Steps>
int in_order(Steps... steps) {
  int error = cudaSuccess;
  static_cast<void>(((error = steps(), error == cudaSuccess) && ...));
  return error;
}

// Sorts the rows of both sides into tiles.
template <typename T>
int gather(const Work& work, cudaStream_t stream) {
  const auto side = [&](const Side& own, const Side& other, bool of_keys) {
    return in_order(
        [&] {
          return launch(group_rows, std::max<int64_t>(blocks_of(own.padded, THREADS), 1), THREADS, 0, stream,
                        Grouping{work.setting, own, other});
        },
        [&] {
          return launch(gather_rows<T>, own.padded / ROWS_OF_WARPS, THREADS, 0, stream,
                        Gathering{work.setting, own, of_keys});
        });
  };
  return in_order([&] { return side(work.queries, work.keys, false); },
                  [&] { return work.setting.single ? cudaSuccess : side(work.keys, work.queries, true); });
}

template <typename T>
int run_forward(const Work& work, Forward f, cudaStream_t stream) {
  Device device{};
  if (const int error = query(&device)) return error;
  const int bytes = choose_buffers(f.plan, work.queries.chunks, device.shared_bytes);
  if (bytes == 0) return cudaErrorInvalidConfiguration;
  const int64_t blocks = int64_t{f.plan.row_blocks} * f.plan.segments;
  const auto per_row = [&](void (*kernel)(Forward)) {
    return launch(kernel, blocks_of(work.queries.padded, THREADS), THREADS, 0, stream, f);
  };
  return in_order(
      [&] { return gather<T>(work, stream); },
      [&] { return launch(sum_exponentials<T>, blocks, THREADS, bytes, stream, f); },
      [&] { return per_row(join_segments); },
      [&] { return f.p.supcon ? int{cudaSuccess} : launch(sum_positives<T>, blocks, THREADS, bytes, stream, f); },
      [&] { return per_row(finish_rows); });
}

template <typename T>
int run_backward(const Work& work, const BackwardWork& memory, Upstream upstream, void* grad_queries, void* grad_keys,
                 float* grad_temperature, cudaStream_t stream) {
  Device device{};
  if (const int error = query(&device)) return error;
  upstream.largest = work.element == 2 ? 16384.0f : 1.0f;
  const Side* summed = nullptr;  // of which the slopes are
  const auto gradients = [&](const Side& own, const Side& other, bool of_keys, void* target) {
    Backward b{work.setting, own, other, plan_of(own, other), of_keys, memory.sums};
    const int bytes = choose_buffers(b.plan, own.chunks, device.shared_bytes);
    if (bytes == 0) return int{cudaErrorInvalidConfiguration};
    summed = &own;
    const int64_t blocks = int64_t{b.plan.row_blocks} * panels_of(own.chunks) * b.plan.segments;
    return in_order(
        [&] { return launch(sum_gradients<T>, blocks, THREADS, bytes, stream, b); },
        [&] {
          return launch(
              scatter_rows<T>, own.padded / ROWS_OF_WARPS, THREADS, 0, stream,
              Gradients{
                  {work.setting, own, of_keys}, memory.sums, b.plan.segments, memory.scale, target, memory.slopes});
        });
  };
  // The temperature's gradient follows from that of either side.
  const bool of_queries = grad_queries != nullptr || (grad_temperature != nullptr && grad_keys == nullptr);
  return in_order(
      [&] { return gather<T>(work, stream); },
      [&] { return launch(measure_upstream, 1, THREADS, 0, stream, upstream); },
      [&] { return launch(prepare_terms, blocks_of(work.queries.padded, THREADS), THREADS, 0, stream, upstream); },
      [&] { return of_queries ? gradients(work.queries, work.keys, false, grad_queries) : int{cudaSuccess}; },
      [&] { return grad_keys != nullptr ? gradients(work.keys, work.queries, true, grad_keys) : int{cudaSuccess}; },
      [&] {
        if (grad_temperature == nullptr) return int{cudaSuccess};
        return launch(finish_temperature, 1, THREADS, 0, stream,
                      Slopes{work.setting, memory.slopes, summed->padded, grad_temperature});
      });
}

}  // namespace
}  // namespace pyeqgan::contrastive

using namespace pyeqgan;
using namespace pyeqgan::contrastive;

int64_t pyeqgan_contrastive_loss_workspace(const pyeqgan_contrastive_problem* problem, bool backward) {
  if (!valid(*problem)) return 0;
  Carver carver(nullptr);
  const Work work(*problem, carver);
  if (backward) {
    BackwardWork(work, carver);
  } else {
    carve_forward(work, carver);
  }
  return carver.bytes();
}

int pyeqgan_contrastive_loss(const pyeqgan_contrastive_problem* problem, float* loss, float* boundary, float* weight,
                             int64_t* count, void* workspace, cudaStream_t stream) {
  if (!valid(*problem)) return cudaErrorInvalidValue;
  Carver carver(workspace);
  const Work work(*problem, carver);
  Forward f = carve_forward(work, carver);
  f.loss = loss, f.boundary = boundary, f.weight = weight, f.count = count;
  return dispatch(problem->dtype, [&](auto zero) { return run_forward<decltype(zero)>(work, f, stream); });
}

int pyeqgan_contrastive_loss_backward(const pyeqgan_contrastive_problem* problem, const float* grad_loss,
                                      const float* boundary, const float* weight, void* grad_queries, void* grad_keys,
                                      float* grad_temperature, void* workspace, cudaStream_t stream) {
  if (!valid(*problem) || (problem->single && grad_keys != nullptr)) return cudaErrorInvalidValue;
  Carver carver(workspace);
  const Work work(*problem, carver);
  const BackwardWork memory(work, carver);
  const Upstream upstream{work.setting, work.queries, grad_loss, boundary, weight, 1.0f, memory.scale};
  return dispatch(problem->dtype, [&](auto zero) {
    return run_backward<decltype(zero)>(work, memory, upstream, grad_queries, grad_keys, grad_temperature, stream);
  });
}
