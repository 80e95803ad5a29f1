// What the kernels of contrastive_loss share: both sides in sorted order, and the tiles their rows lie in.
#pragma once

#include <cstdint>

#include "contrastive_loss.h"
#include "element.cuh"
#include "launch.h"

namespace pyeqgan::contrastive {
namespace {

constexpr int THREADS = 256;
constexpr int ROWS = 128;    // of a block of threads, 16 a warp
constexpr int COLUMNS = 64;  // rows of the other side it meets at a time: a tile
constexpr int64_t MOST_ROWS = (int64_t{1} << 31) - ROWS;
constexpr int64_t LARGEST = int64_t{1} << 30;  // of channels
constexpr float BOUND = 32.0f;                 // largest |score| whose exponentials are summed as they are
constexpr float LARGEST_INVERSE = 1e12f;       // rows shorter than 1e-12 are divided by that

// A tile holds its rows in chunks of 128 bytes of channels, a row of a chunk in 8 units of 16 bytes. Units are swizzled
// so that those of 8 rows in one place of theirs lie in different banks. Tiles follow each other: a block's own rows
// are two of them.
constexpr int CHUNK = 128;
constexpr int CHUNK_BYTES = COLUMNS * CHUNK;
constexpr int PANEL = 4;  // chunks that are multiplied at a time: those of which gradients fit in registers

// The queries or the keys, and the workspace of their sorted rows: those that take part, by label, the ignored last.
struct Side {
  pyeqgan_contrastive_rows given;
  int padded;            // to whole blocks
  int chunks;            // of a row
  int* used;             // how many take part
  int* place;            // (count): the row
  int64_t* ids;          // (padded), or null
  int *begin, *end;      // (padded): the range of the other side's sorted rows with the same label
  int* positives;        // (padded): how many of those count
  float* units;          // (padded): what the row in the tiles is multiplied by to be the (normalised) row
  float* factors;        // (padded): the same over the square root of the temperature
  float* inverses;       // (padded): 1 / max(‖row‖, 1e-12), or 1
  unsigned char* tiles;  // zeros after the last row that takes part
  // Backward, of queries: see prepare_terms.
  float *share, *shift, *pull;
};

// What both sides share.
struct Setting {
  bool single, normalize, supcon;
  int channels;
  int64_t ignore_index;
  const float* temperature_at;
  float temperature_value;

  __device__ float temperature() const { return temperature_at == nullptr ? temperature_value : *temperature_at; }
  // Whether e^s neither overflows nor vanishes for any score s.
  __device__ bool bounded() const { return normalize && 1.0f / temperature() <= BOUND; }
};

// Where a byte of a row's channels lies in a tile.
__device__ inline int within_tile(int row, int byte) {
  return byte / CHUNK * CHUNK_BYTES + row % COLUMNS * CHUNK + (byte % CHUNK ^ row % 8 * 16);
}

template <typename T>
__device__ T& element_of(const Side& side, int row, int channel) {
  const int64_t tile = int64_t{row / COLUMNS} * side.chunks * CHUNK_BYTES;
  return *reinterpret_cast<T*>(side.tiles + tile + within_tile(row, channel * static_cast<int>(sizeof(T))));
}

}  // namespace
}  // namespace pyeqgan::contrastive
