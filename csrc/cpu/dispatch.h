// One kernel source, three objects (DEFAULT, AVX2, AVX512): the table of the best the machine can run is chosen once.
#pragma once

namespace pyeqgan::cpu {

enum class Capability { kDefault, kAvx2, kAvx512, kAmx };  // AMX: AVX-512 and its matrix unit

// The best that this processor has and ATEN_CPU_CAPABILITY (default, avx2, avx512; unset for all) allows.
Capability capability();
const char* capability_name();

template <class Table>
const Table& choose(const Table& fallback, const Table& avx2, const Table& avx512) {
  switch (capability()) {
    case Capability::kAmx:
    case Capability::kAvx512:
      return avx512;
    case Capability::kAvx2:
      return avx2;
    default:
      return fallback;
  }
}

}  // namespace pyeqgan::cpu

#define PYEQGAN_CONCAT_(a, b) a##_##b
#define PYEQGAN_CONCAT(a, b) PYEQGAN_CONCAT_(a, b)

// In a kernel's header: declares the three tables of kernels `name` of type `Table`.
#define PYEQGAN_DECLARE_TABLES(Table, name) \
  extern "C" const Table name##_DEFAULT;    \
  extern "C" const Table name##_AVX2;       \
  extern "C" const Table name##_AVX512

// In a kernel's source: the table of the instruction set this object is compiled for.
#define PYEQGAN_TABLE(name) PYEQGAN_CONCAT(name, CPU_CAPABILITY)

// In the glue: the table to use in this process.
#define PYEQGAN_CHOOSE(name) ::pyeqgan::cpu::choose(name##_DEFAULT, name##_AVX2, name##_AVX512)
