// The transforms of Winograd's F(2×2, 3×3) and, exactly, their adjoints, on panels of channels. Only for kernel
// sources.
//
// Along each axis y = outputᵀ[(taps g) · (inputᵀ d)] with d the 4 pixels, g the 3 taps and y the 2 outputs of a tile:
//   points of pixels  d0-d2, d1+d2, d2-d1, d1-d3     points of taps  g0, (g0+g1+g2)/2, (g0-g1+g2)/2, g2
//   outputs           m0+m1+m2, m1-m2-m3
// Upsampled by two, the 4 pixels are a, b, b, c: the third point is 0, and 2 moves from the second one to its tap.
#pragma once

#include "../panels.h"

namespace {

template <bool upsampled>
struct InputAxis;

template <>
struct InputAxis<false> {
  static constexpr int kPoints = 4, kReach = 4, kStride = 2;
  static constexpr int kPlaces[] = {0, 1, 2, 3};

  template <class V>
  static void points_of_pixels(const V* d, V* v) {
    v[0] = d[0] - d[2], v[1] = d[1] + d[2], v[2] = d[2] - d[1], v[3] = d[1] - d[3];
  }
  template <class V>
  static void pixels_of_points(const V* v, V* d) {
    d[0] = v[0], d[1] = v[1] - v[2] + v[3], d[2] = v[1] + v[2] - v[0], d[3] = v[3].neg();
  }
  template <class V>
  static void points_of_taps(const V* g, V* u) {
    const V half(0.5f), even = (g[0] + g[2]) * half, odd = g[1] * half;
    u[0] = g[0], u[1] = even + odd, u[2] = even - odd, u[3] = g[2];
  }
  template <class V>
  static void taps_of_points(const V* u, V* g) {
    const V half(0.5f), even = (u[1] + u[2]) * half;
    g[0] = u[0] + even, g[1] = (u[1] - u[2]) * half, g[2] = even + u[3];
  }
};

template <>
struct InputAxis<true> {
  static constexpr int kPoints = 3, kReach = 3, kStride = 1;
  static constexpr int kPlaces[] = {0, 1, 3};

  template <class V>
  static void points_of_pixels(const V* d, V* v) {
    v[0] = d[0] - d[1], v[1] = d[1], v[2] = d[1] - d[2];
  }
  template <class V>
  static void pixels_of_points(const V* v, V* d) {
    d[0] = v[0], d[1] = v[1] - v[0] + v[2], d[2] = v[2].neg();
  }
  template <class V>
  static void points_of_taps(const V* g, V* u) {
    u[0] = g[0], u[1] = g[0] + g[1] + g[2], u[2] = g[2];
  }
  template <class V>
  static void taps_of_points(const V* u, V* g) {
    g[0] = u[0] + u[1], g[1] = u[1], g[2] = u[1] + u[2];
  }
};

template <int points>
struct OutputAxis {
  template <class V>
  static void outputs_of_points(const V* m, V* y) {
    if constexpr (points == 4) {
      y[0] = m[0] + m[1] + m[2], y[1] = m[1] - m[2] - m[3];
    } else {
      y[0] = m[0] + m[1], y[1] = m[1] - m[2];
    }
  }
  template <class V>
  static void points_of_outputs(const V* y, V* m) {
    m[0] = y[0], m[1] = y[0] + y[1], m[points - 1] = y[1].neg();
    if constexpr (points == 4) m[2] = y[0] - y[1];
  }
};

// Where point (i, j) of an axis pair is stored among points_per_axis².
template <bool upsampled>
inline int64_t slot(int i, int j, int64_t points_per_axis) {
  using Axis = InputAxis<upsampled>;
  return points_per_axis == 4 ? Axis::kPlaces[i] * 4 + Axis::kPlaces[j] : i * points_per_axis + j;
}

// The points of rows × columns tiles of one panel. A window holds the tiles' pixels [row][column][kPanel]; points of
// consecutive tiles are kPanel apart, different points `distance`.
template <class A, bool upsampled>
void points_of_window(const A* window, int64_t rows, int64_t columns, A* points, int64_t distance, int64_t per_axis) {
  using Axis = InputAxis<upsampled>;
  constexpr int kPoints = Axis::kPoints, kReach = Axis::kReach, kStride = Axis::kStride;
  const int64_t pitch = (kStride * columns + 2) * kPanel<A>;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t lane = 0; lane < kPanel<A>; lane += kLanes<A>) {
      const A* from = window + kStride * r * pitch + lane;
      A* to = points + r * columns * kPanel<A> + lane;
      Vec<A> seen[kReach][kPoints];  // a column of the window, its points along the rows
      const auto look = [&](int column) {
        Vec<A> pixels[kReach];
        for (int i = 0; i < kReach; ++i) pixels[i] = Vec<A>::loadu(from + i * pitch + column * kPanel<A>);
        Axis::points_of_pixels(pixels, seen[column]);
      };
      for (int column = 0; column < kReach - kStride; ++column) look(column);
      for (int64_t c = 0; c < columns; ++c, from += kStride * kPanel<A>, to += kPanel<A>) {
        for (int column = kReach - kStride; column < kReach; ++column) look(column);
        for (int i = 0; i < kPoints; ++i) {
          Vec<A> line[kReach], values[kPoints];
          for (int column = 0; column < kReach; ++column) line[column] = seen[column][i];
          Axis::points_of_pixels(line, values);
          for (int j = 0; j < kPoints; ++j) values[j].store(to + slot<upsampled>(i, j, per_axis) * distance);
        }
        for (int column = 0; column < kReach - kStride; ++column)
          for (int i = 0; i < kPoints; ++i) seen[column][i] = seen[column + kStride][i];
      }
    }
  }
}

// Its adjoint: adds to the window, in whose first two rows and columns tiles overlap.
template <class A, bool upsampled>
void add_to_window(const A* points, int64_t distance, int64_t per_axis, int64_t rows, int64_t columns, A* window) {
  using Axis = InputAxis<upsampled>;
  constexpr int kPoints = Axis::kPoints, kReach = Axis::kReach, kStride = Axis::kStride, kOverlap = kReach - kStride;
  const int64_t pitch = (kStride * columns + 2) * kPanel<A>;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t lane = 0; lane < kPanel<A>; lane += kLanes<A>) {
      const A* from = points + r * columns * kPanel<A> + lane;
      A* to = window + kStride * r * pitch + lane;
      const auto add = [&](const Vec<A>& value, int row, int column) {
        A* sum = to + row * pitch + column * kPanel<A>;
        (Vec<A>::loadu(sum) + value).store(sum);
      };
      Vec<A> pending[kOverlap][kReach];  // columns of the window that the next tile adds to
      for (auto& column : pending)
        for (Vec<A>& value : column) value = Vec<A>(A(0));
      for (int64_t c = 0; c < columns; ++c, from += kPanel<A>, to += kStride * kPanel<A>) {
        Vec<A> half[kReach][kPoints];  // pixels along the columns, points along the rows
        for (int i = 0; i < kPoints; ++i) {
          Vec<A> values[kPoints], line[kReach];
          for (int j = 0; j < kPoints; ++j)
            values[j] = Vec<A>::loadu(from + slot<upsampled>(i, j, per_axis) * distance);
          Axis::pixels_of_points(values, line);
          for (int column = 0; column < kReach; ++column) half[column][i] = line[column];
        }
        Vec<A> pixels[kReach][kReach];
        for (int column = 0; column < kReach; ++column) {
          Axis::pixels_of_points(half[column], pixels[column]);
          if (column < kOverlap)
            for (int row = 0; row < kReach; ++row) pixels[column][row] = pixels[column][row] + pending[column][row];
        }
        for (int column = 0; column < kStride; ++column)
          for (int row = 0; row < kReach; ++row) add(pixels[column][row], row, column);
        for (int column = 0; column < kOverlap; ++column)
          for (int row = 0; row < kReach; ++row) pending[column][row] = pixels[column + kStride][row];
      }
      for (int column = 0; column < kOverlap; ++column)
        for (int row = 0; row < kReach; ++row) add(pending[column][row], row, column);
    }
  }
}

// The outputs [2·row][2·column][kPanel] of rows × columns tiles from their points, plus a bias per channel.
template <class A, int per_axis>
void outputs_of_points(const A* points, int64_t distance, int64_t rows, int64_t columns, const A* bias, A* outputs) {
  const int64_t pitch = 2 * columns * kPanel<A>;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t lane = 0; lane < kPanel<A>; lane += kLanes<A>) {
      const A* from = points + r * columns * kPanel<A> + lane;
      A* to = outputs + 2 * r * pitch + lane;
      const Vec<A> offset = Vec<A>::loadu(bias + lane);
      for (int64_t c = 0; c < columns; ++c, from += kPanel<A>, to += 2 * kPanel<A>) {
        Vec<A> half[2][per_axis];
        for (int i = 0; i < per_axis; ++i) {
          Vec<A> values[per_axis], pair[2];
          for (int j = 0; j < per_axis; ++j) values[j] = Vec<A>::loadu(from + (i * per_axis + j) * distance);
          OutputAxis<per_axis>::outputs_of_points(values, pair);
          half[0][i] = pair[0], half[1][i] = pair[1];
        }
        for (int column = 0; column < 2; ++column) {
          Vec<A> pair[2];
          OutputAxis<per_axis>::outputs_of_points(half[column], pair);
          for (int row = 0; row < 2; ++row) (pair[row] + offset).store(to + row * pitch + column * kPanel<A>);
        }
      }
    }
  }
}

// Its adjoint.
template <class A, int per_axis>
void points_of_outputs(const A* outputs, int64_t rows, int64_t columns, A* points, int64_t distance) {
  const int64_t pitch = 2 * columns * kPanel<A>;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t lane = 0; lane < kPanel<A>; lane += kLanes<A>) {
      const A* from = outputs + 2 * r * pitch + lane;
      A* to = points + r * columns * kPanel<A> + lane;
      for (int64_t c = 0; c < columns; ++c, from += 2 * kPanel<A>, to += kPanel<A>) {
        Vec<A> half[2][per_axis];
        for (int column = 0; column < 2; ++column) {
          const Vec<A> pair[2] = {Vec<A>::loadu(from + column * kPanel<A>),
                                  Vec<A>::loadu(from + pitch + column * kPanel<A>)};
          OutputAxis<per_axis>::points_of_outputs(pair, half[column]);
        }
        for (int i = 0; i < per_axis; ++i) {
          const Vec<A> pair[2] = {half[0][i], half[1][i]};
          Vec<A> values[per_axis];
          OutputAxis<per_axis>::points_of_outputs(pair, values);
          for (int j = 0; j < per_axis; ++j) values[j].store(to + (i * per_axis + j) * distance);
        }
      }
    }
  }
}

}  // namespace
