// What the glue hands to the kernels of contrastive_loss (contract in ops/contrastive_loss.py).
//
// The rows that take part are sorted by label, so that the positives of a query are one range of the keys, and cut into
// blocks. Kernels work on a pair of blocks, or on one block of one side.
#pragma once

#include <cstdint>

#include "../dispatch.h"
#include "../matrix_unit.h"

namespace pyeqgan::cpu {

// The queries or the keys. T is the dtype of the features, A that of sums: double for double, else float.
struct ContrastiveSide {
  int64_t count;         // rows that take part
  int64_t block;         // rows of a block: a multiple of every panel width
  const int64_t* order;  // (count): their places in the tensor, sorted by label
  const void* source;    // T (·,D) contiguous
  void* rows;            // A (padded,stride): the rows in that order, normalised if asked, padded with zeros
  void* panels;          // A (padded·D): the same, transposed block by block (see product.h); or null if there are
                         // limbs
  double* norms;         // (count): ‖source‖
  double* peaks;         // (blocks): the largest ‖row‖

  // Backward only.
  void* sums;      // A (padded,stride): Σ G·(rows of the other side), or null if not needed; cleared by pack
  void* target;    // T (·,D): the gradient, or null if not needed
  double* slopes;  // (blocks): Σ row·(its gradient), by unpack

  // Limbs of the rows (matrix_unit.h), each null where not needed: as left and as right factor of the scores, and as
  // right factor of the products with G, of which the rows are the depth.
  matrix_unit::Limb *left, *right, *deep;

  int64_t blocks() const { return (count + block - 1) / block; }
  int64_t padded() const { return blocks() * block; }
  int64_t begin(int64_t b) const { return b * block; }
  int64_t end(int64_t b) const { return (b + 1) * block < count ? (b + 1) * block : count; }
};

// A block of queries and one of keys.
struct ContrastivePair {
  int64_t queries, keys;
};

// Sums over the keys of each sorted query, in two parts: one number where it stood as a column of a pair's scores, and
// the lanes of a vector where it stood as a row.
struct ContrastiveSums {
  void* columns;  // A (padded)
  void* lanes;    // A (padded,kLanes)

  static constexpr int64_t kLanes = 16;
};

struct ContrastiveLoss {
  int64_t channels, stride;
  double temperature;
  bool normalize, supcon;
  bool self;          // the keys are the queries: s is symmetric, and a pair of blocks stands for (I,J) and (J,I)
  bool limbs;         // whether the matrix unit multiplies
  int* out_of_range;  // set to 1 by pack if it cannot
  bool bounded;       // |s| <= kBound, so that e^s neither overflows nor vanishes
  ContrastiveSide queries, keys;

  // Of each sorted query: its positives' range among the sorted keys; a range of `excluded`, the sorted places of the
  // keys with its id, ascending; and the number of its positives that are not excluded.
  const int64_t *positives_begin, *positives_end, *excluded_begin, *excluded_end, *excluded, *positives;

  // Forward. A (padded), of each sorted query.
  void* maximum;           // what is subtracted from s: the largest so far, 0 if bounded
  void* boundary;          // B
  ContrastiveSums first;   // Σ e^(s − maximum); then, in per_positive, Σ_P softplus(B − s)
  ContrastiveSums second;  // supcon: Σ_P s; per_positive: Σ_P sigmoid(B − s)

  // Backward. A (padded), of each sorted query: with e = e^(s − B), its row of G/scale is share·e − [positive]·pull in
  // supcon; in per_positive share·e on negatives and −pull/(1 + e) on positives.
  void *share, *pull;
  void* shift;   // B; if bounded e^(−B), and share holds this factor too
  double scale;  // the largest |grad_loss|: G neither overflows nor vanishes where its gradients do not

  // As the operation returns and takes them: (M), unsorted.
  void *loss, *boundaries, *weights;  // A
  int64_t* counts;
  const void* grad_loss;  // A

  static constexpr double kBound = 32;
};

// Block by block of a side; of one dtype of features.
struct ContrastiveRowsKernels {
  using Run = void (*)(const ContrastiveLoss&, const ContrastiveSide&, int64_t block);
  struct Typed {
    Run pack;    // rows, panels, norms, peaks
    Run unpack;  // target, slopes
  } f32, f64, bf16, f16;
};

// Of one dtype of sums. A pair of blocks writes to the sums of both: no two pairs may share a block at one time.
struct ContrastiveForwardKernels {
  struct Typed {
    void (*open)(const ContrastiveLoss&, int64_t query_block);
    void (*forward)(const ContrastiveLoss&, ContrastivePair);
    void (*close)(const ContrastiveLoss&, int64_t query_block);
    void (*positives)(const ContrastiveLoss&, ContrastivePair);  // per_positive only
    void (*finish)(const ContrastiveLoss&, int64_t query_block);
  } f32, f64;
};

struct ContrastiveBackwardKernels {
  struct Typed {
    double (*scale)(const ContrastiveLoss&);  // the problem's, from grad_loss
    void (*prepare)(const ContrastiveLoss&, int64_t query_block);
    void (*backward)(const ContrastiveLoss&, ContrastivePair);
  } f32, f64;
};

PYEQGAN_DECLARE_TABLES(ContrastiveRowsKernels, pyeqgan_contrastive_rows);
PYEQGAN_DECLARE_TABLES(ContrastiveForwardKernels, pyeqgan_contrastive_forward);
PYEQGAN_DECLARE_TABLES(ContrastiveBackwardKernels, pyeqgan_contrastive_backward);

}  // namespace pyeqgan::cpu
