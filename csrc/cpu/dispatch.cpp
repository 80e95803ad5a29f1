#include "dispatch.h"

#include <cstdlib>
#include <cstring>

#include "matrix_unit.h"

namespace pyeqgan::cpu {
namespace {

Capability probe() {
#if defined(__x86_64__)
  // The sets the objects are compiled for, see setup.py.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
  const bool avx2 = false, avx512 = false;
#endif
  const char* wanted = std::getenv("ATEN_CPU_CAPABILITY");
  if (wanted != nullptr && std::strcmp(wanted, "default") == 0) return Capability::kDefault;
  if (wanted != nullptr && std::strcmp(wanted, "avx2") == 0) return avx2 ? Capability::kAvx2 : Capability::kDefault;
  if (avx512 && wanted == nullptr && has_matrix_unit()) return Capability::kAmx;
  return avx512 ? Capability::kAvx512 : avx2 ? Capability::kAvx2 : Capability::kDefault;
}

}  // namespace

Capability capability() {
  static const Capability found = probe();
  return found;
}

const char* capability_name() {
  switch (capability()) {
    case Capability::kAmx:
      return "AMX";
    case Capability::kAvx512:
      return "AVX512";
    case Capability::kAvx2:
      return "AVX2";
    default:
      return "DEFAULT";
  }
}

}  // namespace pyeqgan::cpu
