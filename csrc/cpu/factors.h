// Factors of products: panels, which the vector unit takes as they are, and beside them their limbs, for the matrix
// unit. A factor that has no limbs, or numbers out of the limbs' range, is multiplied by the vector unit. Only for
// kernel sources.
#pragma once

#include "matrix_unit.h"
#include "panels.h"

namespace {

using pyeqgan::cpu::matrix_unit::Limb;

// Whether the matrix unit takes panels of A at all.
template <class A>
constexpr bool kSplits = std::is_same_v<A, float> && kPanel<A> == pyeqgan::cpu::matrix_unit::kDepth;

// Distance of the split panels of `rows` rows: of a left factor, whose columns are the depth, and of one whose rows
// are.
template <class A>
inline int64_t left_panel(bool limbs, int64_t rows) {
  return kSplits<A> && limbs ? pyeqgan::cpu::matrix_unit::left_size(rows) : 0;
}
template <class A>
inline int64_t deep_panel(bool limbs, int64_t rows) {
  return kSplits<A> && limbs ? pyeqgan::cpu::matrix_unit::deep_size(rows) : 0;
}

enum class Role { kLeft, kTransposedLeft, kRight };

// Splits panels (rows × columns), `panel` apart, into `to`; null if `limbs` is false or a number is out of range.
template <Role role, class A>
inline const Limb* split(bool limbs, int64_t rows, int64_t columns, const A* panels, int64_t panel, Limb* to) {
  if constexpr (kSplits<A>) {
    namespace unit = pyeqgan::cpu::matrix_unit;
    constexpr auto kSplit = role == Role::kLeft    ? unit::split_left
                            : role == Role::kRight ? unit::split_right
                                                   : unit::split_transposed_left;
    const int64_t step = role == Role::kLeft ? left_panel<A>(limbs, rows) : deep_panel<A>(limbs, rows);
    bool in_range = limbs;
    for (int64_t c = 0; in_range && c < columns; c += kPanel<A>)
      in_range = kSplit(rows, std::min(kPanel<A>, columns - c), panels + c / kPanel<A> * panel, kPanel<A>,
                        to + c / kPanel<A> * step);
    return in_range ? to : nullptr;
  }
  return nullptr;
}

// One panel of c = or += a·b as `product` does it (panels.h), by the matrix unit if both factors have limbs.
template <class A, bool transposed>
inline void multiply(int64_t rows, int64_t columns, int64_t depth, const A* a, int64_t a_panel, const Limb* a_limbs,
                     const A* b, const Limb* b_limbs, A* c, bool add) {
  if constexpr (kSplits<A>) {
    if (a_limbs != nullptr && b_limbs != nullptr) {
      namespace unit = pyeqgan::cpu::matrix_unit;
      const int64_t step = transposed ? unit::deep_size(unit::kDepth) : unit::left_size(a_panel / kPanel<A>);
      unit::product(rows, columns, depth, a_limbs, step, b_limbs, c, kPanel<A>, add);
      return;
    }
  }
  product<A, transposed>(rows, columns, depth, a, a_panel, b, c, add);
}

}  // namespace
