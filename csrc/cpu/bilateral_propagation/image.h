// Squares of an image in vector registers: kLanes lines of kLanes numbers, read from and written to either memory
// layout. Dtype and layout are dealt with here, and nowhere else. Only for kernel sources.
#pragma once

#include <algorithm>

#include "../strides.h"
#include "../vec.h"

namespace {

using pyeqgan::cpu::Strides;

// One side of a square: how many elements (at most kLanes) and how far apart in memory.
struct Side {
  int64_t count, stride;
};

// Each round interleaves line i with line i + kLanes / 2, which rotates the bits of an element's address (line, lane)
// by one: after log2(kLanes) rounds the two have changed places.
template <class A>
inline void transpose(Vec<A>* lines) {
  constexpr int kHalf = kLanes<A> / 2;
  Vec<A> mixed[kLanes<A>];
#pragma GCC unroll 4
  for (int round = 1; round < kLanes<A>; round *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kHalf; ++i) {
      const auto [low, high] = at::vec::interleave2(lines[i], lines[i + kHalf]);
      mixed[2 * i] = low, mixed[2 * i + 1] = high;
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<A>; ++i) lines[i] = mixed[i];
  }
}

// each(line, value) for every line of a square; lanes beyond `lanes.count` are 0. One of the strides is 1. The square
// `next` elements on is asked for: lines far apart are not foreseen by the processor.
template <class T, class Each>
inline void read_square(const T* from, Side lanes, Side lines, int64_t next, Each each) {
  using A = Acc<T>;
  if (lanes.stride == 1) {
    for (int64_t i = 0; i < lines.count; ++i) {
      __builtin_prefetch(from + i * lines.stride + next);
      each(i, load(from + i * lines.stride, lanes.count));
    }
    return;
  }
  Vec<A> square[kLanes<A>];
  for (int64_t i = 0; i < kLanes<A>; ++i) {
    __builtin_prefetch(from + i * lanes.stride + next);
    square[i] = i < lanes.count ? load(from + i * lanes.stride, lines.count) : Vec<A>(A(0));
  }
  transpose<A>(square);
  for (int64_t i = 0; i < lines.count; ++i) each(i, square[i]);
}

// Writes value(line) for every line of a square. One of the strides is 1. Asks for the square `next` elements on.
template <class T, class Value>
inline void write_square(T* to, Side lanes, Side lines, int64_t next, Value value) {
  using A = Acc<T>;
  if (lanes.stride == 1) {
    for (int64_t i = 0; i < lines.count; ++i) {
      __builtin_prefetch(to + i * lines.stride + next, 1);
      store(to + i * lines.stride, value(i), lanes.count);
    }
    return;
  }
  Vec<A> square[kLanes<A>];
  for (int64_t i = 0; i < kLanes<A>; ++i) square[i] = i < lines.count ? value(i) : Vec<A>(A(0));
  transpose<A>(square);
  for (int64_t i = 0; i < lanes.count; ++i) {
    __builtin_prefetch(to + i * lanes.stride + next, 1);
    store(to + i * lanes.stride, square[i], lines.count);
  }
}

}  // namespace
