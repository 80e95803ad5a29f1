// Stores past the caches, which then need not read what was there before and keep what they hold. Only for kernel
// sources.
#pragma once

#include "vec.h"

namespace {

// A whole vector, to a place that streams() takes. Other threads see it after finish_streams().
template <class T>
inline void stream(T* to, const Vec<Acc<T>>& value) {
#if defined(CPU_CAPABILITY_AVX512)
  if constexpr (std::is_same_v<T, float>) return _mm512_stream_ps(to, value);
  if constexpr (std::is_same_v<T, double>) return _mm512_stream_pd(to, value);
#elif defined(CPU_CAPABILITY_AVX2)
  if constexpr (std::is_same_v<T, float>) return _mm256_stream_ps(to, value);
  if constexpr (std::is_same_v<T, double>) return _mm256_stream_pd(to, value);
#endif
  store(to, value);
}

template <class T>
inline bool streams(const T* to) {
  return reinterpret_cast<uintptr_t>(to) % sizeof(Vec<Acc<T>>) == 0;
}

inline void finish_streams() {
#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
  _mm_sfence();
#endif
}

}  // namespace
