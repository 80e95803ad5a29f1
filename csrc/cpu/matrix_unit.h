// Products on the processor's matrix unit (AMX), where it has one.
//
// The unit multiplies bf16 and sums in float32. A number of 16 bits, and one that has been worked out from such in
// float32, is taken as the sum of two bf16, its limbs, and a product as three products of limbs: to 2⁻¹⁷, where a bf16
// holds 2⁻⁹. Numbers of float32 would need three limbs and six products; see docs/benchmarks.md for why they are left
// to the vector unit.
//
// Factors are split a panel of 32 columns at a time, once, and used often; results are panels of 32 columns, too.
#pragma once

#include <cstdint>

namespace pyeqgan::cpu {

// Asks the system for the unit, once; false if there is none to be had.
bool has_matrix_unit();

namespace matrix_unit {

constexpr int64_t kTile = 16;   // rows or columns of a tile
constexpr int64_t kDepth = 32;  // depth of a step, and columns of a panel

// A number in a factor is out of range if the unit would lose of it: not finite, or too large or small for its limbs.
// What lies in these bounds, or is 0, is not; a tile of a factor is judged by its largest number.
constexpr float kSmallest = 0x1p-50f, kLargest = 0x1p98f;

// A factor: tiles of 16 × 32 bf16, one after the other, a tile's two limbs side by side.
using Limb = uint16_t;
constexpr int kLimbs = 2;
constexpr int64_t kTileSize = kTile * kDepth, kBlock = kLimbs * kTileSize;

constexpr int64_t tiles(int64_t n) { return (n + kTile - 1) / kTile; }
constexpr int64_t steps(int64_t depth) { return (depth + kDepth - 1) / kDepth; }

// Numbers of a split panel whose rows are rows of a left factor: one step of its depth.
constexpr int64_t left_size(int64_t rows) { return tiles(rows) * kBlock; }
// Numbers of a split panel whose rows are the depth, as right or transposed left factor.
constexpr int64_t deep_size(int64_t depth) { return steps(depth) * 2 * kBlock; }

// Each splits one panel of `rows` rows, `row` apart, of which `columns` columns count; false if a number is out of
// range. The last one takes at most 32 rows, which become columns, and makes one step of the depth.
bool split_left(int64_t rows, int64_t columns, const float* panel, int64_t row, Limb* to);
bool split_transposed_left(int64_t rows, int64_t columns, const float* panel, int64_t row, Limb* to);
bool split_right(int64_t rows, int64_t columns, const float* panel, int64_t row, Limb* to);
bool split_transposed_right(int64_t rows, int64_t columns, const float* panel, int64_t row, Limb* to);

// One panel of c (rows × columns, columns <= 32), its rows `row` apart, = or += left (rows × depth) · right (depth ×
// columns). `left_step` is the distance of the left factor's steps: left_size, or for a transposed one deep_size(32),
// which has 32 rows.
void product(int64_t rows, int64_t columns, int64_t depth, const Limb* left, int64_t left_step, const Limb* right,
             float* c, int64_t row, bool add);

}  // namespace matrix_unit
}  // namespace pyeqgan::cpu
