// A block of rows of one side meets the other side's rows, a tile at a time: their scores, used and forgotten.
//
// The labels being sorted, the positives of a block lie within one range of columns: the tiles outside are swept
// without looking at a label, and those in which every pair is positive can be left out.
#pragma once

#include <cmath>

#include "contrastive_copies.cuh"
#include "contrastive_warpgroups.cuh"

namespace pyeqgan::contrastive {
namespace {

// How the launcher cuts a sweep: the other side into segments, shared memory into one buffer of tiles or two.
struct Plan {
  int row_blocks, segments, span;
  int buffers;
};

constexpr int ALIGNED = 1024;  // what tiles are to be for warpgroups
constexpr int NUMBERS = 4;     // of each column, that come with its tile
constexpr int NUMBERS_BYTES = NUMBERS * COLUMNS * static_cast<int>(sizeof(float));

__host__ __device__ inline int panel_bytes(int chunks) { return min(chunks, PANEL) * CHUNK_BYTES; }
__host__ __device__ inline int panels_of(int chunks) { return (chunks + PANEL - 1) / PANEL; }
inline int shared_bytes(int chunks, int buffers) {
  return ALIGNED - 16 + 2 * panel_bytes(chunks) + buffers * (panel_bytes(chunks) + NUMBERS_BYTES) + BARRIERS_BYTES;
}

__device__ inline int down(int column) { return column / COLUMNS * COLUMNS; }
__device__ inline int up(int column) { return down(column + COLUMNS - 1); }

// What a block of threads sweeps over.
struct Walk {
  const Side &own, &other;
  bool single;
  int first_row, last_row;
  int used;          // columns that take part
  int first, stop;   // those of its segment, in whole tiles
  int low, high;     // between which all positives of its rows lie
  int inner, outer;  // between which whole tiles hold nothing but positives and excluded pairs

  // There must be a row that takes part.
  __device__ Walk(const Side& own, const Side& other, bool single, int first_row, int segment, int span)
      : own(own), other(other), single(single), first_row(first_row), used(*other.used) {
    last_row = min(first_row + ROWS, *own.used) - 1;
    first = min(segment * span, up(used));
    stop = first + min(span, up(used) - first);
    low = own.begin[first_row];
    high = own.end[last_row];
    inner = up(own.begin[last_row]);
    outer = down(own.end[first_row]);
  }

  // Whether a tile holds anything but pairs of different labels that all count.
  __device__ bool is_mixed(int column) const {
    return own.ids != nullptr || column + COLUMNS > used || (column < high && column + COLUMNS > low);
  }
};

// The two own rows of a thread.
struct Own {
  int first;
  float factor[2];

  __device__ explicit Own(const Walk& walk) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    first = walk.first_row + 16 * warp + lane / 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) factor[r] = walk.own.factors[row(r)];
  }
  __device__ int row(int r) const { return first + 8 * r; }
};

// Whom these rows meet in a mixed tile. Made anew for each: registers are short where there is none.
struct Meeting {
  const Walk& walk;
  int row[2], begin[2], end[2];

  __device__ Meeting(const Walk& walk, const Own& own) : walk(walk) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      row[r] = own.row(r);
      begin[r] = walk.own.begin[row[r]];
      end[r] = walk.own.end[row[r]];
    }
  }
  __device__ bool is_excluded(int r, int column) const {
    if (column >= walk.used) return true;
    return walk.own.ids != nullptr ? walk.own.ids[row[r]] == walk.other.ids[column] : walk.single && row[r] == column;
  }
  // Of one label, though they may be excluded.
  __device__ bool is_alike(int r, int column) const { return column >= begin[r] && column < end[r]; }
};

// Calls use(j, e, c) for each column c of this thread in a tile: its scores are s[j][e] and s[j][2 + e].
template <typename Use>
__device__ void for_each_column(Use use) {
#pragma unroll
  for (int j = 0; j < COLUMNS / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) use(j, e, 8 * j + 2 * (static_cast<int>(threadIdx.x) % 4) + e);
  }
}

// e^x, for 16-bit numbers as exact as they need it.
template <typename T>
__device__ float exponential(float x) {
  return __expf(x);
}
template <>
__device__ inline float exponential<float>(float x) {
  return expf(x);
}

// One tile of the other side in shared memory, with the numbers of its columns.
struct Tile {
  unsigned char* rows;
  float* numbers;

  __device__ float number(int which, int column) const { return numbers[which * COLUMNS + column]; }
};

// Brings rows of both sides into shared memory: first the own panel, then the buffers.
class Loader {
 public:
  // factors alone come with a tile, or with them share, shift and pull
  __device__ Loader(const Side& own, const Side& other, bool with_terms, int buffers)
      : own_(own),
        other_(other),
        numbers_(with_terms ? NUMBERS : 1),
        bytes_(panel_bytes(own.chunks)),
        copies_(shared() + 2 * bytes_ + buffers * (bytes_ + NUMBERS_BYTES)) {}

  __device__ int panels() const { return panels_of(own_.chunks); }
  __device__ int chunks_of(int panel) const { return min(own_.chunks - panel * PANEL, PANEL); }
  __device__ Tile tile(int buffer) const {
    unsigned char* const rows = shared() + 2 * bytes_ + buffer * (bytes_ + NUMBERS_BYTES);
    return {rows, reinterpret_cast<float*>(rows + bytes_)};
  }
  // One of the two tiles of own rows.
  __device__ unsigned char* own_rows(int which) const { return shared() + which * bytes_; }

  // A panel of the tile that begins at a column, and with a row that of the own rows from there on.
  __device__ void load(int buffer, int panel, int column, int own_row) {
    const int bytes = chunks_of(panel) * CHUNK_BYTES, numbers = COLUMNS * static_cast<int>(sizeof(float));
    copies_.expect(buffer, (own_row < 0 ? 1 : 3) * bytes + numbers_ * numbers);
    const Tile to = tile(buffer);
    copies_.copy(buffer, to.rows, panel_of(other_, column, panel), bytes);
    for (int which = 0; which < numbers_; ++which) {
      const float* const from =
          which == 0 ? other_.factors : (which == 1 ? other_.share : (which == 2 ? other_.shift : other_.pull));
      copies_.copy(buffer, to.numbers + which * COLUMNS, from + column, numbers);
    }
    if (own_row < 0) return;
    for (int which = 0; which < ROWS / COLUMNS; ++which)
      copies_.copy(buffer, own_rows(which), panel_of(own_, own_row + which * COLUMNS, panel), bytes);
  }
  // Until all of it is there, for all threads, of which none reads any longer what it has read before.
  __device__ void wait(int buffer) {
    copies_.wait(buffer);
    __syncthreads();
  }

 private:
  __device__ static unsigned char* shared() {
    unsigned char* const start = reinterpret_cast<unsigned char*>(dynamic_shared);
#ifdef HOPPER
    return start + (ALIGNED - reinterpret_cast<uintptr_t>(start) % ALIGNED) % ALIGNED;
#else
    return start;
#endif
  }
  __device__ static const unsigned char* panel_of(const Side& side, int row, int panel) {
    return side.tiles + (int64_t{row / COLUMNS} * side.chunks + int64_t{panel} * PANEL) * CHUNK_BYTES;
  }

  const Side &own_, &other_;
  int numbers_, bytes_;
  Copies copies_;
};

// Calls visit(column, scores of own rows with the tile that begins there, tile) for the tiles in [first, stop) without
// those in [gap, gap_end). With a panel the tile then holds these channels of its rows. All threads of the block come.
template <typename T, typename Visit>
__device__ void sweep(Loader& loader, int first_row, int first, int stop, int gap, int gap_end, int buffers, int panel,
                      Visit visit) {
  const int warp = static_cast<int>(threadIdx.x) / 32, own_row = warp % (COLUMNS / 16) * 16;
  const unsigned char* const own = loader.own_rows(warp / (COLUMNS / 16));
  const int panels = loader.panels();
  const auto passed = [&](int column) { return column >= gap && column < gap_end ? gap_end : column; };
  int column = passed(first), buffer = 0;
  if (column >= stop) return;
  if (buffers == 2) loader.load(0, 0, column, first_row);
  bool has_own = buffers == 2;
  while (column < stop) {
    const int next = passed(column + COLUMNS);
    const Tile tile = loader.tile(buffer);
    Scores s = {};
    if (buffers == 2) {
      loader.wait(buffer);
      buffer ^= 1;
      if (next < stop) loader.load(buffer, 0, next, -1);
      Products<T>::add_scores(s, own, own_row, tile.rows, loader.chunks_of(0));
    } else {
      const auto bring = [&](int which, bool own_too) {
        __syncthreads();
        loader.load(0, which, column, own_too ? first_row : -1);
        loader.wait(0);
      };
      for (int k = 0; k < panels; ++k) {
        bring(k, panels > 1 || !has_own);
        has_own = true;
        Products<T>::add_scores(s, own, own_row, tile.rows, loader.chunks_of(k));
      }
      if (panel >= 0 && panel != panels - 1) bring(panel, false);
    }
    visit(column, s, tile);
    column = next;
  }
}

}  // namespace
}  // namespace pyeqgan::contrastive
