// Torch-free launchers of contrastive_loss (ops.md, section 5): raw pointers in, cudaError_t (as int) out.
//
// Work is enqueued on stream: nothing is allocated, nothing waits, nothing is atomic. Strides are in elements.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

extern "C" {

// The queries or the keys: at most 2^31 - 128 rows.
struct pyeqgan_contrastive_rows {
  const void* features;  // (count,channels)
  int64_t stride[2];
  const int64_t* labels;  // (count): ascending
  const int64_t* order;   // (count): the row each of them belongs to; among equal labels by ascending id
  const int64_t* ids;     // (count): of the rows as they come; null: there are none
  int64_t count;
};

struct pyeqgan_contrastive_problem {
  pyeqgan_contrastive_rows queries;
  pyeqgan_contrastive_rows keys;  // not looked at if single
  bool single;                    // the queries contrast with each other, without ids a row with all but itself
  bool normalize, supcon;
  int64_t channels, ignore_index;
  const float* temperature;  // on the device, or null:
  float temperature_value;
  int dtype;  // see dtype.h
};

// Bytes of the workspace of either direction, 16-byte aligned.
int64_t pyeqgan_contrastive_loss_workspace(const pyeqgan_contrastive_problem* problem, bool backward);

// All (M), written for every query.
int pyeqgan_contrastive_loss(const pyeqgan_contrastive_problem* problem, float* loss, float* boundary, float* weight,
                             int64_t* count, void* workspace, cudaStream_t stream);

// Gradients are contiguous, those of the features in their dtype; null where not needed, as grad_keys if single.
int pyeqgan_contrastive_loss_backward(const pyeqgan_contrastive_problem* problem, const float* grad_loss,
                                      const float* boundary, const float* weight, void* grad_queries, void* grad_keys,
                                      float* grad_temperature, void* workspace, cudaStream_t stream);

}  // extern "C"
