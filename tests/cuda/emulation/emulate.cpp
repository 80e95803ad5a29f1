// A kernel file as a library for the tests: -DKERNEL_FILE="..." names it.
#include <algorithm>
#include <cstdint>

#include KERNEL_FILE

extern "C" {

void emulation_seed(uint64_t seed) { emulation::order.seed(seed); }

void emulation_device(int shared_bytes, int multiprocessors, int l2_bytes) {
  emulation::device[cudaDevAttrMaxSharedMemoryPerBlockOptin] = shared_bytes;
  emulation::device[cudaDevAttrMultiProcessorCount] = multiprocessors;
  emulation::device[cudaDevAttrL2CacheSize] = l2_bytes;
}

// The most dynamic shared memory any kernel asked for in its latest launch.
int emulation_most_granted() {
  int most = 0;
  for (const auto& [kernel, bytes] : emulation::granted) most = std::max(most, bytes);
  return most;
}

}  // extern "C"
