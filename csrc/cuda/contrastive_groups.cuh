// Who contrasts with whom: the positives of a row are one range of the other side's sorted rows.
#pragma once

#include "contrastive_problem.cuh"

namespace pyeqgan::contrastive {
namespace {

// How many numbers come before `value` among those that at(first), at(first + 1), ... give in ascending order; with
// `after`, how many before or equal.
template <typename At>
__device__ int rank_of(int64_t value, bool after, int first, int last, At at) {
  while (first < last) {
    const int middle = first + (last - first) / 2;
    const int64_t met = at(middle);
    if (met < value || (after && met == value)) {
      first = middle + 1;
    } else {
      last = middle;
    }
  }
  return first;
}

// The ignored rows of a side, which are neighbours, and how the others close the gap.
struct Gap {
  int first, size;

  __device__ Gap(const pyeqgan_contrastive_rows& rows, int64_t ignore_index) {
    first = rank(rows, ignore_index, false);
    size = rank(rows, ignore_index, true) - first;
  }
  __device__ static int rank(const pyeqgan_contrastive_rows& rows, int64_t label, bool after) {
    return rank_of(label, after, 0, static_cast<int>(rows.count), [&](int i) { return rows.labels[i]; });
  }
  // Of a sorted row that takes part: from and to its place among all.
  __device__ int open(int row) const { return row < first ? row : row + size; }
  __device__ int close(int row) const { return row > first ? row - size : row; }
};

struct Grouping {
  Setting p;
  Side own, other;
};

// A thread a sorted row of one side, and at least one: a side without rows has none that take part.
__global__ void __launch_bounds__(THREADS) group_rows(Grouping g) {
  const Side &own = g.own, &other = g.other;
  const int64_t at = int64_t{blockIdx.x} * THREADS + threadIdx.x;
  const int row = static_cast<int>(at), count = static_cast<int>(own.given.count);
  const Gap gap(own.given, g.p.ignore_index), other_gap(other.given, g.p.ignore_index);
  const int used = count - gap.size;
  if (at == 0) *own.used = used;
  if (at >= own.padded) return;
  int begin = 0, end = 0, positives = 0;
  int64_t id = 0;
  if (row < used) {
    const int64_t label = own.given.labels[gap.open(row)];
    own.place[row] = static_cast<int>(own.given.order[gap.open(row)]);
    begin = other_gap.close(Gap::rank(other.given, label, false));
    end = other_gap.close(Gap::rank(other.given, label, true));
    positives = end - begin;
    if (own.ids != nullptr) {
      id = own.given.ids[own.place[row]];
      const auto id_at = [&](int i) { return other.given.ids[other.given.order[other_gap.open(i)]]; };
      positives -= rank_of(id, true, begin, end, id_at) - rank_of(id, false, begin, end, id_at);
    } else if (g.p.single) {
      positives -= 1;
    }
  } else if (row < count) {
    own.place[row] = static_cast<int>(own.given.order[gap.first + row - used]);
  }
  if (own.ids != nullptr) own.ids[row] = id;
  own.begin[row] = begin;
  own.end[row] = end;
  own.positives[row] = positives;
}

}  // namespace
}  // namespace pyeqgan::contrastive
